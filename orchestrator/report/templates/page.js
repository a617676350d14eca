"use strict";
// Lays a cursor over the heatmaps: it follows the mouse and the arrow keys, tells counts, rate and interval
// of the cell it is on, and opens that cell. Everything it says is derived from the counts in #cells.
(() => {
  const { panels, album } = JSON.parse(document.getElementById("cells").textContent);
  const Z = 1.959964; // 95 %, as in orchestrator/transfer/matrix.py
  const dialog = document.getElementById("cell");

  function wilson(hits, trials) {
    if (!trials) return null;
    const rate = hits / trials, square = Z * Z;
    const centre = (rate + square / (2 * trials)) / (1 + square / trials);
    const half = (Z / (1 + square / trials)) * Math.sqrt((rate * (1 - rate)) / trials + square / (4 * trials * trials));
    return { rate, low: Math.max(0, centre - half), high: Math.min(1, centre + half) };
  }

  const percent = (rate) => (100 * rate).toFixed(1);

  function interval(hits, trials) {
    const found = wilson(hits, trials);
    return found ? `${percent(found.rate)} % [${percent(found.low)}, ${percent(found.high)}]` : "–";
  }

  // The counts of a cell by its place in the panel's first order.
  function cellOf(panel, row, column) {
    const [n, clean, robust, eligible, fooled] = panel.counts.map(
      (counts) => counts[counts.length === panel.columns ? column : row * panel.columns + column]);
    return { source: panel.rows[row], target: panel.rows[column], row, column, n, clean, robust, eligible, fooled };
  }

  function sentence(cell) {
    if (!cell.n) return "not tried";
    if (!cell.eligible) return `no eligible image among ${cell.n}`;
    return `${interval(cell.fooled, cell.eligible)} fooled, ${cell.fooled} of ${cell.eligible} eligible images`;
  }

  function add(parent, tag, text, name) {
    const element = document.createElement(tag);
    if (text) element.textContent = text;
    if (name) element.className = name;
    parent.append(element);
    return element;
  }

  function showExamples(place, panel, cell) {
    const found = panel.examples && panel.examples[cell.source], readings = found && found.readings[cell.target];
    if (album && !readings) add(place, "p", "The page holds no example images of this cell.", "note");
    if (!readings) return;
    const moved = album.moved[found.moved], member = cell.source.split("@")[0].split("+").includes(cell.target);
    const [adversarial, steps] = (member && moved.own) || moved.others;
    const table = add(add(place, "div", "", "scroll"), "table", "", "examples");
    const line = (words, fill) => {
      const row = add(table, "tr");
      add(row, "th", words).scope = "row";
      album.labels.forEach((label, index) => fill(add(row, "td"), index, label));
    };
    const pictures = (words, sources) => line(words, (field, index) => {
      const picture = add(field, "img");
      picture.src = `data:image/png;base64,${sources[index]}`;
      picture.alt = `${words}: image ${index + 1}`;
    });
    const classes = (words, read) => line(words, (field, index, label) => {
      field.textContent = read(index, label) === label ? `${label}` : `${read(index, label)} ✗`;
    });
    pictures("clean", album.clean);
    pictures("adversarial", adversarial);
    pictures(`perturbation × ${moved.factor}`, steps);
    classes("label", (_, label) => label);
    classes("read before", (index) => readings[index][0]);
    classes("read after", (index) => readings[index][1]);
    add(place, "p", album.note, "note");
  }

  function open(panel, cell, title) {
    dialog.querySelector("h2").textContent = `${cell.source} → ${cell.target}`;
    const body = dialog.querySelector(".body");
    body.replaceChildren();
    add(body, "p", title, "note");
    const list = add(body, "dl", "", "facts");
    [["Fooling rate", interval(cell.fooled, cell.eligible)], ["Fooled / eligible", `${cell.fooled} / ${cell.eligible}`],
      ["Robust accuracy", interval(cell.robust, cell.n)], ["Clean accuracy", interval(cell.clean, cell.n)],
      ["Images", String(cell.n)]].forEach(([term, value]) => {
      const pair = add(list, "div");
      add(pair, "dt", term);
      add(pair, "dd", value);
    });
    showExamples(body, panel, cell);
    dialog.showModal();
  }

  document.querySelectorAll("[data-panel]").forEach((figure) => {
    const panel = panels[figure.dataset.panel], title = figure.getAttribute("aria-label");
    const [cells, cursor, tip, readout, button] = [".cells", ".cursor", ".tip", ".readout", ".order"].map(
      (name) => figure.querySelector(name));
    const pictures = figure.querySelectorAll(".picture");
    let order = 0, row = 0, column = 0;
    const height = panel.rows.length, width = panel.columns;
    const current = () => cellOf(panel, panel.orders[order][row], panel.orders[order][column]);

    function show() {
      const cell = current(), words = sentence(cell);
      cursor.style.cssText = `left:${(100 * column) / width}%;top:${(100 * row) / height}%;` +
        `width:${100 / width}%;height:${100 / height}%`;
      tip.style.cssText = `${column < width / 2 ? `left:${(100 * (column + 1)) / width}%` :
        `right:${100 - (100 * column) / width}%`};${row < height / 2 ? `top:${(100 * (row + 1)) / height}%` :
        `bottom:${100 - (100 * row) / height}%`}`;
      tip.replaceChildren();
      add(tip, "strong", `${cell.source} → ${cell.target}`);
      add(tip, "span", words);
      readout.textContent = `${cell.source} → ${cell.target}: ${words}`;
      cells.classList.add("lit");
    }

    function move(event) {
      const box = cells.getBoundingClientRect(), inside = (part, count) => Math.min(count - 1, Math.max(0, Math.floor(part * count)));
      row = inside((event.clientY - box.top) / box.height, height);
      column = inside((event.clientX - box.left) / box.width, width);
      show();
    }

    const steps = {
      ArrowUp: () => { row = Math.max(0, row - 1); }, ArrowDown: () => { row = Math.min(height - 1, row + 1); },
      ArrowLeft: () => { column = Math.max(0, column - 1); }, ArrowRight: () => { column = Math.min(width - 1, column + 1); },
      Home: () => { column = 0; }, End: () => { column = width - 1; },
      PageUp: () => { row = 0; }, PageDown: () => { row = height - 1; },
    };
    cells.addEventListener("keydown", (event) => {
      if (event.key === "Enter" || event.key === " ") open(panel, current(), title);
      else if (steps[event.key]) { steps[event.key](); show(); } else return;
      event.preventDefault();
    });
    cells.addEventListener("pointermove", move);
    cells.addEventListener("pointerleave", () => { if (document.activeElement !== cells) cells.classList.remove("lit"); });
    cells.addEventListener("focus", () => { if (cells.matches(":focus-visible")) show(); });
    cells.addEventListener("blur", () => cells.classList.remove("lit"));
    cells.addEventListener("click", (event) => { move(event); open(panel, current(), title); });
    cells.hidden = readout.hidden = false;
    if (button) {
      button.hidden = false;
      button.addEventListener("click", () => {
        order = 1 - order;
        button.setAttribute("aria-pressed", String(order === 1));
        pictures.forEach((picture, index) => { picture.hidden = index !== order; });
        cells.classList.remove("lit");
      });
    }
  });
})();
