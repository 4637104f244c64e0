
"use strict";
// Curves to read and scale: the pointer or the arrow keys read values, a drag across zooms, a double click shows all.
(() => {
  const LEFT = 46, RIGHT = 10, TOP = 10, BOTTOM = 24, SVG = "http://www.w3.org/2000/svg";
  const shown = new Map(); // title of a chart -> the steps in view, which stay when a board is refreshed

  const short = (value) => {
    const size = Math.abs(value);
    const text = size && (size < 1e-3 || size >= 1e7) ? value.toExponential(2) : Number(value.toPrecision(4)).toLocaleString("en", {maximumFractionDigits: 7});
    return text.replace("-", "\u2212");
  };

  const ticks = (low, high, count) => {
    const raw = (high - low) / count, magnitude = 10 ** Math.floor(Math.log10(raw));
    const step = [1, 2, 5, 10].map((factor) => factor * magnitude).find((size) => size >= raw);
    const marks = [];
    for (let index = Math.ceil(low / step - 1e-9); index * step <= high + 1e-9 * step; index++) marks.push(index * step);
    return marks;
  };

  const add = (parent, tag, attributes, text = "") => {
    const element = document.createElementNS(SVG, tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    element.textContent = text;
    return parent.appendChild(element);
  };

  const open = (figure) => {
    const svg = figure.querySelector("svg[data-x]");
    if (!svg) return;
    const [first, last] = svg.dataset.x.split(" ").map(Number), [low, high] = svg.dataset.y.split(" ").map(Number);
    const {width, height} = svg.viewBox.baseVal, w = width - LEFT - RIGHT, h = height - TOP - BOTTOM, base = height - BOTTOM;
    if (!(last > first && high > low)) return;
    const lines = [...svg.querySelectorAll("path[data-points]")].map((path) => ({name: path.dataset.name, points: JSON.parse(path.dataset.points)}));
    const steps = lines[0].points.map((point) => point[0]);
    const drawing = svg.querySelector(".lines"), scale = svg.querySelector(".scale"), key = svg.dataset.key;
    const cursor = add(svg, "line", {class: "cursor", y1: TOP, y2: base, visibility: "hidden"});
    const band = add(svg, "rect", {class: "selection", y: TOP, height: h, visibility: "hidden"});
    const read = figure.appendChild(document.createElement("div"));
    read.className = "read";
    const all = document.createElement("button");
    all.type = "button";
    all.textContent = "show all";
    let view = {x0: first, x1: last, y0: low, y1: high}, from = null, at = null;

    const toX = (step) => LEFT + (step - view.x0) / (view.x1 - view.x0) * w;
    const toY = (value) => base - (value - view.y0) / (view.y1 - view.y0) * h;

    const draw = () => {
      const ax = (last - first) / (view.x1 - view.x0), ay = (high - low) / (view.y1 - view.y0);
      drawing.setAttribute("transform", `matrix(${ax} 0 0 ${ay} ${toX(first) - LEFT * ax} ${toY(low) - base * ay})`);
      scale.replaceChildren();
      for (const mark of ticks(view.y0, view.y1, 4)) {
        add(scale, "line", {class: mark === 0 ? "zero" : "rule", x1: LEFT, x2: width - RIGHT, y1: toY(mark), y2: toY(mark)});
        add(scale, "text", {x: LEFT - 5, y: toY(mark) + 3.5, "text-anchor": "end"}, short(mark));
      }
      for (const mark of ticks(view.x0, view.x1, 5)) {
        add(scale, "text", {x: toX(mark), y: height - 8, "text-anchor": toX(mark) > width - 30 ? "end" : "middle"}, short(mark));
      }
    };

    const zoom = (x0, x1) => {
      const values = lines.flatMap(({points}) => points.filter(([step]) => step >= x0 && step <= x1).map((point) => point[1]));
      if (!(x1 > x0) || !values.length) return;
      const lowest = Math.min(...values), highest = Math.max(...values);
      const margin = 0.06 * (highest - lowest) || Math.max(Math.abs(highest), 1) * 0.5;
      view = {x0, x1, y0: lowest - margin, y1: highest + margin};
      shown.set(key, [x0, x1]);
      figure.querySelector("figcaption").append(all);
      draw();
    };

    const reset = () => {
      view = {x0: first, x1: last, y0: low, y1: high};
      shown.delete(key);
      all.remove();
      draw();
    };

    const show = (index) => {
      at = Math.min(Math.max(index, 0), steps.length - 1);
      const step = steps[at], x = toX(step);
      const values = lines.map(({name, points}) => {
        const near = points.reduce((best, point) => Math.abs(point[0] - step) < Math.abs(best[0] - step) ? point : best);
        return `${lines.length > 1 ? name.split("/").pop() + " " : ""}${short(near[1])}`;
      });
      cursor.setAttribute("x1", x);
      cursor.setAttribute("x2", x);
      cursor.setAttribute("visibility", x >= LEFT && x <= width - RIGHT ? "visible" : "hidden");
      read.textContent = `step ${short(step)}: ${values.join(" \u00b7 ")}`;
    };

    const stepAt = (event) => {
      const box = svg.getBoundingClientRect(), x = (event.clientX - box.left) / box.width * width;
      return Math.min(Math.max(view.x0 + (x - LEFT) / w * (view.x1 - view.x0), view.x0), view.x1);
    };
    const nearest = (step) => steps.reduce((best, other, index) => Math.abs(other - step) < Math.abs(steps[best] - step) ? index : best, 0);

    svg.tabIndex = 0;
    svg.addEventListener("pointerdown", (event) => {
      if (event.button) return;
      from = stepAt(event);
      svg.setPointerCapture(event.pointerId);
    });
    svg.addEventListener("pointermove", (event) => {
      const step = stepAt(event);
      show(nearest(step));
      if (from === null) return;
      band.setAttribute("x", Math.min(toX(from), toX(step)));
      band.setAttribute("width", Math.abs(toX(step) - toX(from)));
      band.setAttribute("visibility", "visible");
    });
    svg.addEventListener("pointerup", (event) => {
      const step = stepAt(event);
      if (from !== null && Math.abs(toX(step) - toX(from)) > 8) zoom(Math.min(from, step), Math.max(from, step));
      from = null;
      band.setAttribute("visibility", "hidden");
    });
    svg.addEventListener("pointercancel", () => { from = null; band.setAttribute("visibility", "hidden"); });
    svg.addEventListener("pointerleave", () => { cursor.setAttribute("visibility", "hidden"); read.textContent = ""; });
    svg.addEventListener("dblclick", reset);
    all.addEventListener("click", reset);
    svg.addEventListener("keydown", (event) => {
      if (event.key === "ArrowRight" || event.key === "ArrowLeft") {
        show(at === null ? steps.length - 1 : at + (event.key === "ArrowRight" ? 1 : -1));
        event.preventDefault();
      } else if (event.key === "Escape") reset();
    });
    const kept = shown.get(key);
    if (kept) zoom(...kept);
  };

  const start = () => document.querySelectorAll("figure.chart").forEach(open);
  start();

  // On a board: fetch the page again when the run's files have changed, and keep what the reader has opened.
  const board = document.body.dataset;
  if (board.stamp === undefined) return;
  setInterval(async () => {
    try {
      const stamp = await (await fetch("stamp")).text();
      document.body.classList.remove("stale");
      if (stamp === board.stamp || document.querySelector("svg:active")) return;
      const next = new DOMParser().parseFromString(await (await fetch("./")).text(), "text/html");
      const opened = new Set([...document.querySelectorAll("details[open] > summary")].map((summary) => summary.textContent));
      for (const part of ["header", "nav", "main", "footer"]) document.querySelector(part).replaceWith(next.querySelector(part));
      for (const summary of document.querySelectorAll("summary")) if (opened.has(summary.textContent)) summary.parentElement.open = true;
      board.stamp = stamp;
      start();
    } catch {
      document.body.classList.add("stale"); // the board's process has ended
    }
  }, 2000);
})();
