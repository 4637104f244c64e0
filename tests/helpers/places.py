"""Where things lie: this checkout, and what is shared beside it."""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared"
#: Real images; tests that read them are skipped where they are absent.
DATA = SHARED / "data"
#: Reference values of published networks.
GOLDEN = Path(os.environ.get("GENFW_GOLDEN", SHARED / "golden"))
