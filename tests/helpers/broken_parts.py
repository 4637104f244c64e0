"""Broken plugins: what each does, and what has to come of it.

A part that breaks a run must end it with an error that names the part; one that breaks while it is loaded costs a line
and its own components, and every command goes on. Nothing of this is a fault of genfw's, and none of it is success.
"""

from __future__ import annotations

import os
import re
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import attrs

from attempts import Called, Outcome, call_genfw, fresh_folder, judge_call, measured

#: Kind -> module and class of a working part, which a broken one inherits.
BASES = {
    "dataset": "genfw_plugins.datasets.toy:GaussianGrid",
    "prior": "genfw_plugins.basics.prior:StandardNormal",
    "decoder": "genfw_plugins.basics.decoder:MLPDecoder",
    "encoder": "genfw_plugins.basics.encoder:MLPEncoder",
    "energy": "genfw_plugins.mlp_energy.energy:MLPEnergy",
    "stage": "genfw_plugins.training.elbo:ELBO",
    "optimizer": "genfw_plugins.training.optimizers:Adam",
    "sampler": "genfw_plugins.mcmc.langevin:Langevin",
    "start": "genfw_plugins.mcmc.starts.noise:NoiseStart",
    "metric": "genfw_plugins.metrics.samples.sampling_speed:SamplingSpeed",
    "tracker": "genfw.training.tracker:Tracker",
}

#: Kind -> the block that names the working part.
BLOCKS = {
    "dataset": "{use: gaussian-grid}",
    "prior": "{use: standard-normal, dim: 2}",
    "decoder": "{use: mlp, hidden: [4], sigma: 0.2}",
    "encoder": "{use: mlp, hidden: [4]}",
    "energy": "{use: mlp, on: data, hidden: [4]}",
    "stage": "{use: elbo, steps: 2, batch: 8, optimizer: OPTIMIZER}",
    "optimizer": "{use: adam, lr: 1e-3}",
    "sampler": "{use: langevin, step_size: 1e-3, steps: 1}",
    "start": "{use: noise}",
    "metric": "{use: sampling-speed, batch: 4, repeats: 1}",
    "tracker": "",
}
Right = Literal["named", "survived", "either"]
_NAME = re.compile("broken[-_ ]?part", re.IGNORECASE)


@attrs.frozen
class Broken:
    """One broken plugin.

    Arguments:
        name: What is broken about it.
        kind: Of the component that a run uses; empty where loading is what breaks.
        module: The plugin's text.
        files: Further files of an installed distribution, name -> text.
        right: ``named``: the command fails and names the component; ``survived``: it goes on and says no more than a
            line of it; ``either``: it may go on, but not without a word.
        words: The command line, but for the plugin.
        quick: Among those that the default tests try.
    """

    name: str
    kind: str
    module: str = attrs.field(repr=False)
    files: dict[str, str] = attrs.field(factory=dict, repr=False)
    right: Right = "named"
    words: tuple[str, ...] = ("run", "r.yaml", "--dir", "out")
    quick: bool = False

    @property
    def label(self) -> str:
        """Its name, and what it is."""
        return f"{self.kind or 'plugin'}: {self.name}"


def _component(kind: str, body: str, *, base: str | None = None, before: str = "", more: str = "") -> str:
    """A one-file plugin whose class inherits a working part and overrides some of it."""
    module, _, cls = (base or BASES[kind]).partition(":")
    head = (
        f"import os, sys\nimport torch\nfrom genfw import Component, hookimpl\nfrom {module} import {cls}\n{before}\n"
    )
    own = f"class BrokenPart({cls}):\n    '''Broken.'''\n{textwrap.indent(textwrap.dedent(body).strip(), '    ')}\n"
    offer = f"return [Component({kind!r}, 'broken-part', 'broken:BrokenPart', 'broken'{more})]"
    return f"{head}\n{own}\n@hookimpl\ndef genfw_components():\n    {offer}\n"


def _recipe(kind: str) -> str:
    arguments = {
        "prior": ", dim: 2",
        "decoder": ", hidden: [4], sigma: 0.2",
        "encoder": ", hidden: [4]",
        "energy": ", on: data, hidden: [4]",
        "stage": ", steps: 2, batch: 8, optimizer: OPTIMIZER",
        "optimizer": ", lr: 1e-3",
        "sampler": ", step_size: 1e-3, steps: 1",
        "metric": ", batch: 4, repeats: 1",
    }
    block = dict(BLOCKS)
    block[kind] = f"{{use: broken-part{arguments.get(kind, '')}}}"
    lines = ["genfw: 1", "name: r", "plugins: [./broken.py]", f"data: {block['dataset']}"]
    lines += [f"{role}: {block[role]}" for role in ("prior", "decoder", "encoder", "energy")]
    chain = f"{{sampler: {block['sampler']}, start: {block['start']}}}"
    contrastive = f"{{use: contrastive, steps: 2, batch: 8, optimizer: {block['optimizer']}, negatives: {chain}}}"
    lines += ["train:", f"  - {block['stage'].replace('OPTIMIZER', block['optimizer'])}", f"  - {contrastive}"]
    lines += [f"sample: {{count: 4, sampler: {block['sampler']}}}", f"evaluate: [{block['metric']}]"]
    lines += [f"trackers: [{block['tracker']}]"] if block["tracker"] else []
    lines += ["engine: {log_every: 1, accelerator: cpu, threads: 1}", ""]
    return "\n".join(lines)


#: What a constructor may do; ``check`` and ``run`` must name the component.
CONSTRUCTORS = {
    "KeyError": "raise KeyError('x')",
    "TypeError": "raise TypeError('x')",
    "AttributeError": "self.x.y",
    "IndexError": "[][0]",
    "AssertionError": "assert False",
    "ZeroDivisionError": "1 / 0",
    "OSError": "open('/no/such/file')",
    "NotImplementedError": "raise NotImplementedError",
    "StopIteration": "next(iter(()))",
    "RecursionError": "self.__init__()",
    "MemoryError": "raise MemoryError('x')",
    "SystemExit": "sys.exit()",
    "SystemExit of 3": "sys.exit(3)",
    "SystemExit with a text": "sys.exit('bye')",
    "GeneratorExit": "raise GeneratorExit",
    "an exception without a text": "raise Exception",
    "an exception that can't be shown": "raise type('E', (Exception,), {'__str__': lambda self: 1 / 0})()",
    "an exception of 1 MB": "raise Exception('x' * 1_000_000)",
    "an exception with control characters": "raise Exception('\\x1b[31mred\\a')",
    "no super().__init__": "pass",
    "an import of what is not there": "import nothing_of_this_name",
}
#: Kind -> name -> methods that break while a run works.
METHODS: dict[str, dict[str, str]] = {
    "energy": {
        "forward raises KeyError": "def forward(self, v): raise KeyError('x')",
        "forward raises RuntimeError": "def forward(self, v): raise RuntimeError('x')",
        "forward raises SystemExit": "def forward(self, v): sys.exit()",
        "forward raises StopIteration": "def forward(self, v): raise StopIteration",
        "forward is of None": "def forward(self, v): return None",
        "forward is of integers": "def forward(self, v): return torch.zeros(len(v), dtype=torch.int64)",
        "forward is a float": "def forward(self, v): return 0.0",
        "forward is a text": "def forward(self, v): return 'x'",
        "forward is a tuple": "def forward(self, v): return super().forward(v), 1",
        "forward is without gradient": "def forward(self, v): return super().forward(v).detach()",
        "forward is of zeros": "def forward(self, v): return torch.zeros(len(v))",
        "forward is of shape (B, 1)": "def forward(self, v): return super().forward(v).unsqueeze(1)",
        "forward is one number": "def forward(self, v): return super().forward(v).sum()",
        "forward is of another batch": "def forward(self, v): return super().forward(v)[1:]",
        "forward is complex": "def forward(self, v): return super().forward(v) * 1j",
        "forward is NaN": "def forward(self, v): return super().forward(v) * float('nan')",
        "forward is of another device": "def forward(self, v): return super().forward(v).to('meta')",
        "forward takes nothing": "def forward(self): return 0",
        "for_chain is no context": "def for_chain(self): return None",
        "state_dict raises": "def state_dict(self, *a, **k): raise KeyError('x')",
    },
    "decoder": {
        "forward is of None": "def forward(self, latent): return None",
        "forward is a tensor": "def forward(self, latent): return super().forward(latent).mean",
        "forward raises KeyError": "def forward(self, latent): raise KeyError('x')",
        "forward raises SystemExit": "def forward(self, latent): sys.exit()",
        "noise_shape raises": "@property\ndef noise_shape(self): raise KeyError('x')",
        "noise_shape is a text": "noise_shape = 'x'",
        "noise_shape is of another data set": "noise_shape = (7,)",
    },
    "prior": {
        "noise_shapes raises": "@property\ndef noise_shapes(self): raise KeyError('x')",
        "noise_shapes is a number": "noise_shapes = 7",
        "noise_shapes is negative": "noise_shapes = ((-1,),)",
        "transform is of None": "def transform(self, noise, temperature=1.0): return None",
        "transform raises SystemExit": "def transform(self, noise, temperature=1.0): sys.exit()",
    },
    "encoder": {
        "forward is of None": "def forward(self, *a, **k): return None",
        "forward raises KeyError": "def forward(self, *a, **k): raise KeyError('x')",
        "forward raises SystemExit": "def forward(self, *a, **k): sys.exit()",
    },
    "dataset": {
        "data_shape is a text": "data_shape = 'ab'",
        "data_shape is None": "data_shape = None",
        "data_shape is negative": "data_shape = (-2,)",
        "data_shape raises": "@property\ndef data_shape(self): raise KeyError('x')",
        "split is of None": "def split(self, name): return None",
        "split raises KeyError": "def split(self, name): raise KeyError(name)",
        "split raises SystemExit": "def split(self, name): sys.exit()",
        "rows are of None": "def split(self, name): return _Split(lambda index: None)",
        "rows are of another shape": "def split(self, name): return _Split(lambda i: (torch.zeros(len(i), 9), None))",
        "rows are integers": "def split(self, name): return _Split(lambda i: (torch.zeros(len(i), 2).long(), None))",
        "rows are NaN": "def split(self, name): return _Split(lambda i: (torch.full((len(i), 2), float('nan')), None))",
        "rows are too few": "def split(self, name): return _Split(lambda index: (torch.zeros(1, 2), None))",
        "rows raise": "def split(self, name): return _Split(lambda index: {}[3])",
        "there are no rows": "def split(self, name): return _Split(lambda index: (torch.zeros(0, 2), None), 0)",
        "there are -1 rows": "def split(self, name): return _Split(lambda index: None, -1)",
    },
    "sampler": {
        "init is of None": "def init(self, target, position, generator): return None",
        "init raises": "def init(self, target, position, generator): raise KeyError('x')",
        "step is of None": "def step(self, target, state, generator): return None",
        "step raises": "def step(self, target, state, generator): raise KeyError('x')",
        "step raises SystemExit": "def step(self, target, state, generator): sys.exit()",
        "finish raises": "def finish(self, state): raise KeyError('x')",
        "state_dict is a set": "def state_dict(self): return {1, 2}",
    },
    "start": {
        "draw is of None": "def draw(self, request): return None",
        "draw is of another shape": "def draw(self, request): return torch.zeros(3, 3)",
        "draw raises": "def draw(self, request): raise KeyError('x')",
        "store raises": "def store(self, request, position): raise KeyError('x')",
    },
    "stage": {
        "step raises KeyError": "def step(self, batch, step): raise KeyError('x')",
        "step raises SystemExit": "def step(self, batch, step): sys.exit()",
        "step is of None": "def step(self, batch, step): return None",
        "step is of texts": "def step(self, batch, step): return {'loss': 'x'}",
        "step is of a matrix": "def step(self, batch, step): return {'loss': torch.zeros(2, 2)}",
        "setup raises": "def setup(self): raise KeyError('x')",
        "finish raises": "def finish(self): raise KeyError('x')",
        "state_dict is a set": "def state_dict(self): return {1, 2}",
        "state_dict holds an object": "def state_dict(self): return {'x': object()}",
    },
    "optimizer": {
        "build is of None": "def build(self, parameters): return None",
        "build raises": "def build(self, parameters): raise KeyError('x')",
        "factor is a text": "def factor(self, step, steps): return 'x'",
        "factor is NaN": "def factor(self, step, steps): return float('nan')",
    },
    "metric": {
        "compute is of None": "def compute(self, evaluation): return None",
        "compute is of texts": "def compute(self, evaluation): return ['x']",
        "compute raises": "def compute(self, evaluation): raise KeyError('x')",
        "compute raises SystemExit": "def compute(self, evaluation): sys.exit()",
        "a value is a text": "def compute(self, evaluation): return [Result('x', 'much')]",
        "a value is a tensor of two": "def compute(self, evaluation): return [Result('x', torch.zeros(2))]",
        "a name is a number": "def compute(self, evaluation): return [Result(7, 1.0)]",
    },
    "tracker": {
        "log raises": "def log(self, row): raise KeyError('x')",
        "log raises SystemExit": "def log(self, row): sys.exit()",
        "start raises": "def log(self, row): pass\ndef start(self, run): raise KeyError('x')",
        "start raises SystemExit": "def log(self, row): pass\ndef start(self, run): sys.exit()",
        "end raises": "def log(self, row): pass\ndef end(self, status): raise KeyError('x')",
        "event raises": "def log(self, row): pass\ndef event(self, kind, message): raise KeyError('x')",
    },
}
_BEFORE = {
    "dataset": """
class _Split:
    in_memory = True
    def __init__(self, rows, count=40): self.rows, self.count = rows, count
    def __len__(self): return self.count
    def get(self, index, *, generator=None): return self.rows(index)
""",
    "metric": "from genfw import Result",
}

_GOOD = "from genfw import Component, hookimpl\n\n@hookimpl\ndef genfw_components():\n    return [{}]\n"
_ONE = "Component('energy', 'broken-part', 'broken:BrokenPart', {})"

#: Name -> text of a module that breaks while it is loaded or listed.
MODULES: dict[str, str] = {
    "SystemExit": "import sys; sys.exit()",
    "SystemExit of 0 in a hook": _GOOD.replace("return", "raise SystemExit(0);return").format(""),
    "KeyError": "raise KeyError('x')",
    "KeyError in a hook": _GOOD.replace("return", "raise KeyError('x');return").format(""),
    "GeneratorExit": "raise GeneratorExit",
    "a syntax error": "def",
    "100,000 brackets": "(" * 100_000,
    "5,000 minus signs": "x = " + "-" * 100_000 + "1",
    "zero bytes": "x = '\0'",
    "nothing": "",
    "an import of what is not there": "import nothing_of_this_name",
    "an import of itself": "import broken",
    "it prints": "print('hello from broken')\n" + _GOOD.format(_ONE.format("'x'")),
    "it writes to the file of stdout": "import os; os.write(1, b'hello')\n" + _GOOD.format(_ONE.format("'x'")),
    "it imports torch": "import torch\n" + _GOOD.format(_ONE.format("'x'")),
    "it changes the folder": "import os; os.chdir('/')\n" + _GOOD.format(_ONE.format("'x'")),
    "it sets an excepthook": "import sys; sys.excepthook = None\n" + _GOOD.format(_ONE.format("'x'")),
    "it warns": "import warnings; warnings.warn('hello')\n" + _GOOD.format(_ONE.format("'x'")),
    "an exception that can't be shown": "raise type('E', (Exception,), {'__str__': lambda self: 1 / 0})()",
    "an exception of 1 MB": "raise Exception('x' * 1_000_000)",
    "an exception with control characters": "raise Exception('\\x1b[31mred\\a')",
    "a summary of 3": _GOOD.format(_ONE.format("3")),
    "a summary of None": _GOOD.format(_ONE.format("None")),
    "a summary of 1 MB": _GOOD.format(_ONE.format("'x' * 1_000_000")),
    "a summary with control characters": _GOOD.format(_ONE.format("'\\x1b[31mred\\a'")),
    "a summary with a surrogate": _GOOD.format(_ONE.format("'\\ud800'")),
    "a summary of two lines": _GOOD.format(_ONE.format("'a\\nb'")),
    "tags of 3": _GOOD.format(_ONE.format("'x', tags=3")),
    "tags of numbers": _GOOD.format(_ONE.format("'x', tags=(1, 2)")),
    "aliases of numbers": _GOOD.format(_ONE.format("'x', aliases=(1, None)")),
    "a reference of 3": _GOOD.format(_ONE.format("'x', reference=3")),
    "needs of 3": _GOOD.format(_ONE.format("'x', needs=3")),
    "needs of numbers": _GOOD.format(_ONE.format("'x', needs={1: 2}")),
    "a name of 3": _GOOD.format("Component('energy', 3, 'broken:BrokenPart', 'x')"),
    "a kind of 3": _GOOD.format("Component(3, 'broken-part', 'broken:BrokenPart', 'x')"),
    "a kind that is a list": _GOOD.format("Component([], 'broken-part', 'broken:BrokenPart', 'x')"),
    "a target of None": _GOOD.format("Component('energy', 'broken-part', None, 'x')"),
    "components that are none": _GOOD.format("7, None"),
    "components that are None": _GOOD.format("").replace("[]", "None"),
    "components that are a text": _GOOD.format("").replace("[]", "'ab'"),
    "components without end": _GOOD.format("").replace("return []", "import itertools; return itertools.repeat(3)"),
    "a generator that raises": _GOOD.format("").replace("return []", "yield 1; raise KeyError('x')"),
    "a hook that nobody knows": _GOOD.format(_ONE.format("'x'")).replace("genfw_components", "genfw_componets"),
    "a hook with arguments": _GOOD.format(_ONE.format("'x'")).replace("()", "(x, y)"),
    "recipes that are numbers": _GOOD.format("7").replace("genfw_components", "genfw_recipes"),
    "recipes that are None": _GOOD.format("None").replace("genfw_components", "genfw_recipes"),
    "recipes that are nowhere": _GOOD.format("'/no/such/folder'").replace("genfw_components", "genfw_recipes"),
    "recipes that are a device": _GOOD.format("'/dev/zero'").replace("genfw_components", "genfw_recipes"),
    "importers that are none": _GOOD.format("7").replace("genfw_components", "genfw_importers"),
    "a module that answers for everything": "def __getattr__(name):\n    raise KeyError(name)\n",
    "a module that is somebody else": "import sys, types; sys.modules[__name__] = types.ModuleType('x')\n",
    "a name that the built-in plugins have": _GOOD.format("Component('energy', 'mlp', 'broken:BrokenPart', 'x')"),
}
_METADATA = "Name: b\nVersion: 1\n"
#: Name -> files of an installed distribution.
DISTRIBUTIONS: dict[str, dict[str, str]] = {
    "no METADATA": {"entry_points.txt": "[genfw]\nbroken = broken\n"},
    "METADATA of nothing": {"METADATA": "", "entry_points.txt": "[genfw]\nbroken = broken\n"},
    "METADATA without a name": {"METADATA": "Version: 1\n", "entry_points.txt": "[genfw]\nbroken = broken\n"},
    "METADATA without a version": {"METADATA": "Name: b\n", "entry_points.txt": "[genfw]\nbroken = broken\n"},
    "METADATA that is no text": {"METADATA": "\udcff\udcfe", "entry_points.txt": "[genfw]\nbroken = broken\n"},
    "control characters in METADATA": {
        "METADATA": "Name: b\x1b[31m\nVersion: 1\n",
        "entry_points.txt": "[genfw]\nbroken = broken\n",
    },
    "an entry point of nonsense": {"METADATA": _METADATA, "entry_points.txt": "[genfw]\nbroken = a b:c:d[e]\n"},
    "an entry point to nowhere": {"METADATA": _METADATA, "entry_points.txt": "[genfw]\nbroken = nowhere\n"},
    "an entry point to an attribute": {
        "METADATA": _METADATA,
        "entry_points.txt": "[genfw]\nbroken = broken:nothing\n",
    },
    "entry points of nonsense": {"METADATA": _METADATA, "entry_points.txt": "[genfw\nbroken\n=\n"},
    "entry points that are no text": {"METADATA": _METADATA, "entry_points.txt": "\udcff\udcfe"},
    "the name of genfw itself": {
        "METADATA": "Name: genfw\nVersion: 1\n",
        "entry_points.txt": "[genfw]\nbroken = broken\n",
    },
}  # fmt: skip


def table() -> Iterator[Broken]:
    """All broken plugins."""
    for name, body in CONSTRUCTORS.items():
        for kind in ("energy", "dataset", "stage", "metric"):
            if name == "no super().__init__" and kind != "energy":
                continue
            module = _component(kind, f"def __init__(self) -> None:\n    {body}")
            # A constructor of its own takes none of the arguments that the working part takes.
            quick = kind == "energy" and name.startswith(("KeyError", "SystemExit", "OSError", "no super", "an exc"))
            yield Broken(f"constructor: {name}", kind, module, quick=quick)
    for kind, methods in METHODS.items():
        for name, body in methods.items():
            module = _component(kind, body, before=_BEFORE.get(kind, ""))
            # A metric that fails is told of beside the others; a tracker that fails is dropped.
            right: Right = "either" if kind in ("tracker", "metric") else "named"
            yield Broken(name, kind, module, right=right, quick=name in _QUICK)
    yield Broken("not of its kind", "energy", _component("energy", "x = 1", base="pathlib:PurePath"))
    yield Broken("abstract", "energy", _component("energy", "x = 1", base="genfw:Energy"))
    yield Broken("no such class", "energy", _component("energy", "x = 1").replace("broken:BrokenPart", "broken:Other"))
    yield Broken(
        "no such module", "energy", _component("energy", "x = 1").replace("broken:BrokenPart", "broken_part_x:A")
    )
    yield Broken("a parameter without annotation", "energy", _component("energy", "def __init__(self, x=1): pass"))
    yield Broken("*args", "energy", _component("energy", "def __init__(self, *args): pass"))
    yield Broken("an annotation of nonsense", "energy", _component("energy", "def __init__(self, x: 'Nope' = 1): pass"))
    yield Broken("a metaclass that raises", "energy", _metaclass())
    for name, module in MODULES.items():
        for words in (("list",), ("run", "r.yaml", "--dir", "out")):
            if words[0] == "run" and "built-in" in name:
                continue  # the recipe's bare name is ambiguous then, and is refused
            quick = words == ("list",) and "end" not in name and not name.startswith(("it ", "100,000", "recipes"))
            yield Broken(f"{name}, under {words[0]}", "", module, right="survived", words=words, quick=quick)
    for name, files in DISTRIBUTIONS.items():
        module = _GOOD.format(_ONE.format("'x'"))
        for words in (("list",), ("doctor",), ("check", "r.yaml")):
            quick = words == ("list",)
            yield Broken(f"a distribution with {name}, under {words[0]}", "", module, files, "survived", words, quick)


_QUICK = ("forward is of None", "forward raises SystemExit", "split is of None", "compute is of None")


def _metaclass() -> str:
    before = "class M(type(MLPEnergy)):\n    def __call__(cls, *a, **k): raise KeyError('x')\n"
    return _component("energy", "x = 1", before=before).replace(
        "(MLPEnergy):\n    '", "(MLPEnergy, metaclass=M):\n    '"
    )


# -- what genfw makes of one ------------------------------------------------------------------------------------------


def attempt(case: Broken) -> Outcome:
    """Use a broken plugin, in this process, which should be a child."""
    with fresh_folder() as folder:
        os.chdir(folder)
        (folder / "r.yaml").write_text(_text_of_recipe(case))
        found = measured(lambda: _judge(case, _called(case, folder)))
        os.chdir("/")
    return found


def _text_of_recipe(case: Broken) -> str:
    if not case.kind:
        return _recipe("none").replace("plugins: [./broken.py]\n", "")
    text = _recipe(case.kind)
    own_arguments = "def __init__(self) -> None" in case.module or "base=" in case.module
    return re.sub(r"\{use: broken-part[^{}]*(\{[^{}]*\})?\}", "{use: broken-part}", text) if own_arguments else text


def _called(case: Broken, folder: Path) -> Called:
    if case.files:
        site = folder / "site"
        (site / "broken-1.dist-info").mkdir(parents=True)
        for name, text in case.files.items():
            (site / "broken-1.dist-info" / name).write_bytes(text.encode("utf-8", "surrogateescape"))
        (site / "broken.py").write_text(case.module)
        sys.path.insert(0, str(site))
        return call_genfw(*case.words)
    (folder / "broken.py").write_text(case.module)
    return call_genfw(*case.words) if case.kind else call_genfw(*case.words, "--plugin", "broken.py")


def _judge(case: Broken, called: Called) -> Outcome:
    # The display names every stage; what counts is what is said of the failure.
    said = [line for line in called.err.splitlines(keepends=True) if not re.match(r"stage \d|r: /", line.strip())]
    called = attrs.evolve(called, err="".join(said))
    found = judge_call(called)
    if not found.fine:
        return found
    named = bool(_NAME.search(called.err) or _NAME.search(called.out))
    if case.right == "survived":
        if called.code and case.words != ("doctor",):  # which tells of a broken plugin by its exit code
            return Outcome("not survived", found.say)
        if case.words == ("list",) and "gaussian-grid" not in called.out:
            return Outcome("not survived", "the other components are not listed")
        lines = [line for line in called.err.splitlines() if "broken" in line]
        return found if len(lines) <= 1 else Outcome("flood", f"{len(lines)} lines: {found.say}")
    if called.code == 0 and case.right == "named":
        return Outcome("accepted", f"exit 0: {found.say}")
    if not named:
        return Outcome("unnamed", found.say) if called.code else Outcome("accepted", f"exit 0: {found.say}")
    return found
