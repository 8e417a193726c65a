"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const concepts = data.concepts;
  if (!document.getElementById("gallery")) return;
  const PAGE = 36, ROWS = 200;
  const byId = (id) => document.getElementById(id);

  // All text enters the page here, as text nodes: whatever a name holds, it is only shown.
  function make(tag, properties = {}, ...children) {
    const element = Object.assign(document.createElement(tag), properties);
    element.append(...children);
    return element;
  }
  const bdi = (text, className = "") => make("bdi", { className, dir: "auto" }, text);
  const figure = (value, digits = 3) => (value === null ? "–" : value.toFixed(digits));
  const percent = (value) => (value === null ? "–" : `${Math.round(100 * value)} %`);
  const picture = (concept) => (Object.hasOwn(data.pictures, concept.concept) ? data.pictures[concept.concept] : null);

  for (const concept of concepts) {
    concept.words = [concept.concept, data.verdicts[concept.verdict], concept.placeholder, concept.class, concept.kind, ...Object.values(concept.carried)]
      .join("\n").toLowerCase();
  }

  const carried = [...new Set(concepts.flatMap((concept) => Object.keys(concept.carried)))].sort();
  const columns = [
    { label: "concept", value: (c) => c.concept, text: true },
    { label: "verdict", value: (c) => c.verdict, said: (value) => data.verdicts[value], text: true },
    { label: "class", value: (c) => c.class, text: true },
    { label: "kind", value: (c) => c.kind, text: true },
    ...data.columns.map(({ name, label, percent: share }) => ({ label, value: (c) => c[name], show: share ? percent : figure })),
    { label: "recognised", value: (c) => c.nearest_own, show: percent },
    { label: "steps", value: (c) => c.steps, show: (value) => String(value) },
    { label: "seconds", value: (c) => c.seconds, show: (value) => figure(value, 1) },
    { label: "stopped by", value: (c) => c.stopped_by, text: true },
    ...carried.map((name) => ({ label: name, value: (c) => (Object.hasOwn(c.carried, name) ? c.carried[name] : ""), text: true })),
  ];

  // What is missing comes last, whichever way the rest is sorted.
  function sorted(list, value, direction) {
    return [...list].sort((one, other) => {
      const [a, b] = [value(one), value(other)];
      if (a === null || b === null) return (a === null) - (b === null);
      return direction * (typeof a === "string" ? a.localeCompare(b, undefined, { numeric: true }) : a - b);
    });
  }

  // Of one verdict, the word that is the least like its pictures. Sorting is stable: this is the order among equals.
  const worstFirst = (list) => sorted(list, (concept) => concept.covered, 1);

  let found = concepts;
  let cards = PAGE, rows = ROWS, sorting = { column: 1, direction: 1 };

  function search() {
    const wanted = byId("search").value.trim().toLowerCase().split(/\s+/).filter(Boolean);
    found = concepts.filter((concept) => wanted.every((word) => concept.words.includes(word)));
    byId("found").textContent = wanted.length ? `${found.length} of ${concepts.length}` : "";
    [cards, rows] = [PAGE, ROWS];
    drawGallery();
    drawTable();
    const kept = new Set(found);
    for (const [concept, mark] of marks) mark.classList.toggle("faint", !kept.has(concept));
  }

  function scores(concept) {
    return make("span", { className: "score" }, ...[
      data.verdicts[concept.verdict], `covered ${percent(concept.covered)}`, `reconstruction ${figure(concept.reconstruction)}`,
      `editability ${figure(concept.editability)}`,
    ].map((text) => make("span", {}, text)));
  }

  function drawGallery() {
    const [field, direction] = byId("order").value.split(":");
    const list = sorted(worstFirst(found), (concept) => concept[field], Number(direction));
    byId("gallery").replaceChildren(...list.slice(0, cards).map((concept) => {
      const source = picture(concept);
      const card = make("button", { type: "button", className: "card" },
        source ? make("img", { src: source, alt: "" }) : make("span", { className: "absent" }, "picture not in this page"),
        make("span", { className: "about" }, bdi(concept.concept, "name"), scores(concept)));
      card.addEventListener("click", () => open(concept));
      return card;
    }));
    byId("more").hidden = list.length <= cards;
  }

  function drawTable() {
    const column = columns[sorting.column];
    const list = sorted(worstFirst(found), column.value, sorting.direction);
    byId("table").tBodies[0].replaceChildren(...list.slice(0, rows).map((concept) => make("tr", {}, ...columns.map((each) => {
      const value = each.value(concept);
      return each.text ? make("td", { className: "text" }, bdi(each.said ? each.said(value) : value, "fold")) : make("td", {}, (each.show || figure)(value));
    }))));
    byId("more-rows").hidden = list.length <= rows;
    [...byId("table").tHead.rows[0].cells].forEach((cell, index) => {
      cell.ariaSort = index !== sorting.column ? "none" : sorting.direction > 0 ? "ascending" : "descending";
    });
  }

  function told(fact, concept) {
    const [low, high] = fact.interval.map((name) => figure(concept[name]));
    const bounds = fact.bounds.map(([label, name]) => `${label} ${figure(concept[name])}`).join(", ");
    const beside = [...(low ? [`95 % interval ${low} to ${high}`] : []), ...(bounds ? [bounds] : [])].join("; ");
    return figure(concept[fact.name]) + (beside ? `  (${beside})` : "");
  }

  function open(concept) {
    hide();
    const view = byId("view");
    const facts = [
      ["placeholder", concept.placeholder], ["class", concept.class || "–"], ["kind", concept.kind],
      ["verdict", data.verdicts[concept.verdict]], ["covered", percent(concept.covered)],
      ...data.facts.map((fact) => [fact.label, told(fact, concept)]),
      ["training", `${concept.steps} steps in ${figure(concept.seconds, 1)} s, stopped by ${concept.stopped_by}`],
      ...Object.entries(concept.carried),
      ...Object.entries(concept.stated).map(([name, value]) => [`its file: ${name}`, value]),
    ];
    const close = make("button", { type: "button" }, "Close");
    close.addEventListener("click", () => view.close());
    const source = picture(concept);
    view.replaceChildren(
      make("div", { className: "top" }, make("h2", {}, bdi(concept.concept)), close),
      ...(source ? [make("img", { src: source, alt: `pictures of ${concept.concept}` })] : []),
      make("dl", {}, ...facts.flatMap(([name, value]) => [make("dt", {}, bdi(name)), make("dd", {}, bdi(value))])),
      make("a", { href: concept.link }, "the grid at full size"));
    view.showModal();
    view.scrollTop = 0;
  }

  const hover = byId("hover");
  const hide = () => { hover.hidden = true; };
  function show(concept, mark) {
    const source = picture(concept);
    hover.replaceChildren(bdi(concept.concept, "name"), scores(concept), ...(source ? [make("img", { src: source, alt: "" })] : []));
    hover.hidden = false;
    const place = mark.getBoundingClientRect(), box = hover.getBoundingClientRect();
    const beside = place.right + 12 + box.width < innerWidth ? place.right + 12 : place.left - 12 - box.width;
    hover.style.left = `${Math.max(12, Math.min(beside, innerWidth - box.width - 12))}px`;
    hover.style.top = `${Math.max(12, Math.min(place.top - 20, innerHeight - box.height - 12))}px`;
  }

  const marks = new Map();
  function drawScatter() {
    const points = concepts.filter((concept) => concept.reconstruction !== null && concept.editability !== null);
    if (!points.length) {
      byId("scatter").append(make("p", { className: "note" }, "No concept has both scores."));
      return;
    }
    const svg = (tag, attributes, ...children) => {
      const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
      for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
      element.append(...children);
      return element;
    };
    // On a phone the drawing has fewer units, so that marks stay large enough to be tapped and labels to be read.
    const [width, height] = matchMedia("(max-width: 600px)").matches ? [400, 400] : [900, 520];
    const [left, right, top, bottom] = [70, 14, 18, 64];
    const bounds = [data.floor, data.ceiling].filter((value) => value !== null);
    const extent = (values) => {
      const [low, high] = [Math.min(...values), Math.max(...values)];
      const margin = (high - low) * 0.08 || 0.05;
      return [low - margin, high + margin];
    };
    const [x0, x1] = extent(points.map((concept) => concept.editability));
    const [y0, y1] = extent([...points.map((concept) => concept.reconstruction), ...bounds]);
    const x = (value) => left + (value - x0) / (x1 - x0) * (width - left - right);
    const y = (value) => height - bottom - (value - y0) / (y1 - y0) * (height - top - bottom);
    const ticks = (low, high) => {
      const rough = (high - low) / 7, power = 10 ** Math.floor(Math.log10(rough));
      const step = [1, 2, 5, 10].map((factor) => factor * power).find((each) => each >= rough);
      const digits = Math.max(0, -Math.floor(Math.log10(step)));
      return Array.from({ length: Math.floor(high / step) - Math.ceil(low / step) + 1 },
        (_, index) => (Math.ceil(low / step) + index) * step).map((value) => [value, value.toFixed(digits)]);
    };
    const drawing = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "group", "aria-label": "Reconstruction against editability" });
    for (const [value, label] of ticks(x0, x1)) {
      drawing.append(svg("line", { class: "axis", x1: x(value), x2: x(value), y1: top, y2: height - bottom }),
        svg("text", { x: x(value), y: height - bottom + 24, "text-anchor": "middle" }, label));
    }
    for (const [value, label] of ticks(y0, y1)) {
      drawing.append(svg("line", { class: "axis", x1: left, x2: width - right, y1: y(value), y2: y(value) }),
        svg("text", { x: left - 8, y: y(value) + 5, "text-anchor": "end" }, label));
    }
    for (const [value, label] of [[data.floor, "mean floor"], [data.ceiling, "mean ceiling"]]) {
      if (value === null) continue;
      drawing.append(svg("line", { class: "bound", x1: left, x2: width - right, y1: y(value), y2: y(value) }),
        svg("text", { x: left + 8, y: y(value) - 6 }, label));
    }
    drawing.append(svg("text", { x: (width + left) / 2, y: height - 10, "text-anchor": "middle" }, "editability →"),
      svg("text", { transform: `translate(18 ${(height - bottom) / 2}) rotate(-90)`, "text-anchor": "middle" }, "reconstruction →"));
    const radius = points.length > 500 ? 5 : 9;
    for (const concept of points) {
      const [cx, cy] = [x(concept.editability), y(concept.reconstruction)];
      const shape = concept.kind === "style"
        ? svg("rect", { x: cx - radius, y: cy - radius, width: 2 * radius, height: 2 * radius })
        : svg("circle", { cx, cy, r: radius });
      shape.setAttribute("class", concept.kind === "style" ? "mark style" : "mark");
      shape.setAttribute("tabindex", "0");
      shape.setAttribute("role", "button");
      shape.setAttribute("aria-label", concept.concept);
      for (const event of ["pointerenter", "focus"]) shape.addEventListener(event, () => show(concept, shape));
      for (const event of ["pointerleave", "blur"]) shape.addEventListener(event, hide);
      shape.addEventListener("click", () => open(concept));
      shape.addEventListener("keydown", (event) => { if (event.key === "Enter") open(concept); });
      marks.set(concept, shape);
      drawing.append(shape);
    }
    byId("scatter").append(drawing);
    if (points.some((concept) => concept.kind === "style")) {
      byId("scatter").append(make("p", { className: "note" }, "Circles are objects, squares are styles."));
    }
  }

  byId("table").tHead.append(make("tr", {}, ...columns.map((column, index) => {
    const button = make("button", { type: "button" }, bdi(column.label));
    button.addEventListener("click", () => {
      // Numbers are first wanted from the top, text from A.
      const first = column.text ? 1 : -1;
      sorting = { column: index, direction: sorting.column === index ? -sorting.direction : first };
      drawTable();
    });
    return make("th", { className: column.text ? "text" : "", scope: "col" }, button);
  })));
  byId("search").addEventListener("input", search);
  byId("order").addEventListener("change", () => { cards = PAGE; drawGallery(); });
  byId("more").addEventListener("click", () => { cards += PAGE; drawGallery(); });
  byId("more-rows").addEventListener("click", () => { rows += ROWS; drawTable(); });
  byId("view").addEventListener("click", (event) => { if (event.target === byId("view")) byId("view").close(); });
  addEventListener("scroll", hide, { passive: true });
  drawScatter();
  drawGallery();
  drawTable();
})();
