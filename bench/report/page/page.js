"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const root = document.documentElement;
  const one = (id) => document.getElementById(id);
  root.classList.add("scripted");

  // -- copying ------------------------------------------------------------------------------------

  const say = (button, text) => {
    button.dataset.name ??= button.textContent;
    button.textContent = text;
    setTimeout(() => { button.textContent = button.dataset.name; }, 1500);
  };

  const copy = async (text) => {
    try {
      await navigator.clipboard.writeText(text);
      return true;
    } catch {
      // From file:// some browsers let nobody at the clipboard but the user's own selection.
      const area = document.createElement("textarea");
      area.value = text;
      document.body.append(area);
      area.select();
      const done = document.execCommand("copy");
      area.remove();
      return done;
    }
  };

  const table = one("scores");
  const shown = (cell) => cell.offsetParent !== null || getComputedStyle(cell).display !== "none";
  const grid = () => [...table.rows].map((row) =>
    [...row.cells].filter(shown).map((cell) => cell.textContent.trim().replace(/\s*[▲▼]$/, "")));
  const quote = (text) => (/[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
  const signs = { "±": "$\\pm$", "↓": "$\\downarrow$", "↑": "$\\uparrow$", "†": "$\\dagger$", "—": "--",
    "&": "\\&", "%": "\\%", "_": "\\_", "#": "\\#", "$": "\\$", "‡": "$\\ddagger$",
    "{": "\\{", "}": "\\}", "\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}" };
  const tex = (text) => [...text].map((sign) => signs[sign] ?? sign).join("");
  const formats = {
    markdown: ([head, ...rows]) => [head, head.map(() => "---"), ...rows]
      .map((row) => `| ${row.map((text) => text.replaceAll("|", "\\|")).join(" | ")} |`).join("\n"),
    csv: (rows) => rows.map((row) => row.map(quote).join(",")).join("\n"),
    latex: ([head, ...rows]) => [`\\begin{tabular}{l${"r".repeat(head.length - 1)}}`, "\\toprule",
      `${head.map(tex).join(" & ")} \\\\`, "\\midrule",
      ...rows.map((row) => `${row.map(tex).join(" & ")} \\\\`), "\\bottomrule", "\\end{tabular}"].join("\n"),
  };

  for (const button of document.querySelectorAll("button.copy")) {
    button.addEventListener("click", async () => {
      const { copy: text, table: format, from } = button.dataset;
      const content = format ? formats[format](grid()) : from ? one(from).textContent : text;
      say(button, (await copy(content)) ? "Copied" : "Not allowed here");
    });
  }

  // -- the scoreboard -----------------------------------------------------------------------------

  const sortBy = (head, index) => {
    const was = head.getAttribute("aria-sort");
    const direction = was === "ascending" ? "descending" : "ascending";
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", direction);
    const value = (row) => {
      const cell = row.cells[index];
      if (index === 0) return cell.textContent;
      return cell.dataset.sort === "" ? null : Number(cell.dataset.sort);
    };
    const compare = (a, b) => {
      const [x, y] = [value(a), value(b)];
      // What has no number stands last either way.
      if (x === null || y === null) return (x === null) - (y === null);
      const order = index === 0 ? x.localeCompare(y) : x - y;
      return direction === "ascending" ? order : -order;
    };
    const body = table.tBodies[0];
    const rows = [...body.rows];
    const anchors = rows.filter((row) => row.classList.contains("anchor"));
    const others = rows.filter((row) => !row.classList.contains("anchor")).sort(compare);
    body.append(...others, ...anchors);
  };

  if (table) {
    [...table.tHead.rows[0].cells].forEach((head, index) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => sortBy(head, index));
    });
    one("all-metrics").addEventListener("change", (event) => {
      table.classList.toggle("with-extra", event.target.checked);
    });
  }

  // -- quality against cost -----------------------------------------------------------------------

  const chart = one("chart");
  if (!chart) return;
  const hidden = new Set();
  const [WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM] = [880, 460, 84, 24, 18, 56];
  const svg = (name, attributes, ...children) => {
    const made = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.append(...children);
    return made;
  };
  const short = (value) => {
    if (value === 0) return "0";
    const size = Math.abs(value);
    for (const [power, prefix] of [[1e18, "E"], [1e15, "P"], [1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"]]) {
      if (size >= power) return `${Number((value / power).toPrecision(3))} ${prefix}`;
    }
    return String(Number(value.toPrecision(3)));
  };

  const scale = (values, isLog, from, to) => {
    const f = isLog ? Math.log10 : (x) => x;
    let [low, high] = [Math.min(...values.map(f)), Math.max(...values.map(f))];
    const room = high > low ? 0.08 * (high - low) : isLog ? 0.3 : Math.abs(high) * 0.1 || 1;
    [low, high] = [low - room, high + room];
    const place = (x) => from + ((f(x) - low) / (high - low)) * (to - from);
    let ticks = [];
    if (isLog) {
      for (let power = Math.floor(low); power <= Math.ceil(high); power += 1) {
        for (const digit of high - low > 2.5 ? [1] : high - low > 1 ? [1, 3] : [1, 2, 3, 5, 7]) {
          ticks.push(digit * 10 ** power);
        }
      }
    } else {
      const rough = (high - low) / 6;
      const power = 10 ** Math.floor(Math.log10(rough));
      const step = [1, 2, 5, 10].map((n) => n * power).find((n) => n >= rough);
      for (let tick = Math.ceil(low / step) * step; tick <= high; tick += step) ticks.push(tick);
    }
    const inside = (found) => found.filter((tick) => f(tick) >= low && f(tick) <= high);
    ticks = inside(ticks);
    return { place, ticks: isLog && ticks.length < 2 ? inside(scale(values, false, 0, 1).ticks) : ticks };
  };

  const strip = (points) => {
    const ticks = points.map((method) => method.name);
    const step = (WIDTH - RIGHT - LEFT) / ticks.length;
    return { ticks, place: (name) => LEFT + step * (ticks.indexOf(name) + 0.5) };
  };

  const SHAPES = {
    s: "M-6-6h12v12h-12z", "^": "M0-7L7 6H-7z", D: "M0-8L7 0 0 8-7 0z", v: "M0 7L7-6H-7z",
    P: "M-2-7h4v5h5v4h-5v5h-4v-5h-5v-4h5z", X: "M-7-4l3-3 4 4 4-4 3 3-4 4 4 4-3 3-4-4-4 4-3-3 4-4z",
    "<": "M-7 0L6-7V7z", ">": "M7 0L-6-7V7z",
  };
  // Black is the text's colour: on a dark page it would not be seen.
  const colour = (method) => (method.color === "#000000" ? "var(--text)" : method.color);
  const marker = (method) => (SHAPES[method.marker]
    ? svg("path", { d: SHAPES[method.marker], fill: colour(method) })
    : svg("circle", { r: 6.5, fill: colour(method) }));

  const told = (method, cost, metric) => {
    const quality = method.metrics[metric.name];
    const half = quality.half === null ? "" : ` ± ${short(quality.half)} (${quality.kind})`;
    return `${method.name}: ${metric.title} ${short(quality.value)}${half}; `
      + `${data.costs[cost]} ${short(method.costs[cost])}; ${method.seeds} seed${method.seeds > 1 ? "s" : ""}`;
  };

  const draw = () => {
    const [cost, metric] = [one("cost").value, data.metrics.find((m) => m.name === one("metric").value)];
    const points = data.methods.filter((method) => method.metrics[metric.name] && method.costs[cost] !== null);
    const levels = one("with-levels").checked ? Object.entries(data.levels[metric.name] ?? {}) : [];
    const ends = points.flatMap((method) => {
      const { value, half } = method.metrics[metric.name];
      return [value - (half ?? 0), value + (half ?? 0)];
    });
    const ys = [...ends, ...levels.map(([, value]) => value)];
    const mayLog = { x: points.every((m) => m.costs[cost] > 0), y: ys.every((value) => value > 0) };
    for (const axis of ["x", "y"]) one(`log-${axis}`).disabled = !mayLog[axis];
    const isLog = { x: one("log-x").checked && mayLog.x, y: one("log-y").checked && mayLog.y };
    if (!points.length) {
      chart.replaceChildren("No method has both of these.");
      return;
    }
    const costs = points.map((m) => m.costs[cost]);
    // Equal by design: there is no cost to draw against, and no point is moved along its axis.
    const areEqual = points.length > 1 && Math.max(...costs) - Math.min(...costs) < 0.04 * Math.max(...costs);
    const x = areEqual ? strip(points) : scale(costs, isLog.x, LEFT, WIDTH - RIGHT);
    const across = (method) => x.place(areEqual ? method.name : method.costs[cost]);
    const y = scale(ys, isLog.y, HEIGHT - BOTTOM, TOP);
    const better = { "↓": "lower is better", "↑": "higher is better" }[metric.better] ?? "";
    const picture = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "group",
      "aria-label": `${metric.title} against ${data.costs[cost]}` });
    let last = -Infinity;
    for (const tick of x.ticks) {
      const at = x.place(tick);
      const text = areEqual ? tick : short(tick);
      picture.append(svg("line", { class: "rule", x1: at, x2: at, y1: TOP, y2: HEIGHT - BOTTOM }));
      // The legend has the names that find no room here.
      const half = 4.2 * text.length;
      if (at - half < last) continue;
      last = at + half;
      picture.append(svg("text", { x: at, y: HEIGHT - BOTTOM + 18, "text-anchor": "middle" }, text));
    }
    last = Infinity;
    for (const tick of y.ticks) {
      const at = y.place(tick);
      picture.append(svg("line", { class: "rule", x1: LEFT, x2: WIDTH - RIGHT, y1: at, y2: at }));
      if (last - at < 18) continue;
      last = at;
      picture.append(svg("text", { x: LEFT - 8, y: at + 4, "text-anchor": "end" }, short(tick)));
    }
    picture.append(
      svg("line", { class: "axis", x1: LEFT, x2: WIDTH - RIGHT, y1: HEIGHT - BOTTOM, y2: HEIGHT - BOTTOM }),
      svg("line", { class: "axis", x1: LEFT, x2: LEFT, y1: TOP, y2: HEIGHT - BOTTOM }),
      svg("text", { x: (LEFT + WIDTH - RIGHT) / 2, y: HEIGHT - 14, "text-anchor": "middle" },
        areEqual ? `${data.costs[cost]}: all at ${short(Math.max(...costs))}` : data.costs[cost]),
      svg("text", { x: 0, y: 0, "text-anchor": "middle",
        transform: `translate(18 ${(TOP + HEIGHT - BOTTOM) / 2}) rotate(-90)` },
      `${metric.title}${better ? `, ${better}` : ""}`),
    );
    for (const [name, value] of levels) {
      const at = y.place(value);
      picture.append(svg("line", { class: "level", x1: LEFT, x2: WIDTH - RIGHT, y1: at, y2: at }),
        svg("text", { x: WIDTH - RIGHT - 4, y: at - 5, "text-anchor": "end" }, name));
    }
    const visible = points.filter((method) => !hidden.has(method.name));
    if (one("front").checked && metric.better && !areEqual) {
      const sign = metric.better === "↓" ? 1 : -1;
      let best = Infinity;
      const front = [...visible].sort((a, b) => a.costs[cost] - b.costs[cost]
        || sign * (a.metrics[metric.name].value - b.metrics[metric.name].value))
        .filter((method) => {
          const value = sign * method.metrics[metric.name].value;
          const isBest = value < best;
          best = Math.min(best, value);
          return isBest;
        });
      const steps = front.map((method) => [across(method), y.place(method.metrics[metric.name].value)]);
      const path = steps.map(([a, b], i) => (i ? `H${a}V${b}` : `M${a} ${b}`)).join("");
      if (path) picture.append(svg("path", { class: "front", d: path }));
    }
    for (const method of visible) {
      const { value, half } = method.metrics[metric.name];
      const [a, b] = [across(method), y.place(value)];
      const group = svg("g", { tabindex: 0, role: "img", "aria-label": told(method, cost, metric),
        "data-method": method.name, transform: `translate(${a} ${b})` });
      if (half !== null) {
        group.append(svg("line", { x1: 0, x2: 0, y1: y.place(value - half) - b, y2: y.place(value + half) - b,
          stroke: colour(method), "stroke-width": method.seeds > 1 ? 2 : 1 }));
      }
      group.append(marker(method), svg("title", {}, told(method, cost, metric)));
      const show = () => { one("hover").textContent = told(method, cost, metric); };
      group.addEventListener("mouseenter", show);
      group.addEventListener("focus", show);
      picture.append(group);
    }
    chart.replaceChildren(picture);
  };

  const isolate = (name) => {
    const others = data.methods.map((method) => method.name).filter((other) => other !== name);
    const isAlone = others.length > 0 && others.every((other) => hidden.has(other)) && !hidden.has(name);
    hidden.clear();
    if (!isAlone) others.forEach((other) => hidden.add(other));
  };

  const show = () => {
    for (const button of one("legend").children) {
      button.setAttribute("aria-pressed", String(!hidden.has(button.dataset.method)));
    }
    for (const row of table?.tBodies[0].rows ?? []) row.classList.toggle("hidden", hidden.has(row.dataset.method));
    draw();
  };

  for (const method of data.methods) {
    const button = document.createElement("button");
    button.type = "button";
    button.dataset.method = method.name;
    button.title = "Click: show or hide; with Shift: this one alone";
    const sign = svg("svg", { width: 16, height: 16, viewBox: "-9 -9 18 18", "aria-hidden": "true" }, marker(method));
    button.append(sign, ` ${method.name}`);
    button.addEventListener("click", (event) => {
      if (event.shiftKey) isolate(method.name);
      else if (!hidden.delete(method.name)) hidden.add(method.name);
      show();
    });
    one("legend").append(button);
  }
  for (const id of ["cost", "metric", "log-x", "log-y", "front", "with-levels"]) {
    one(id).addEventListener("change", draw);
  }
  show();
})();
