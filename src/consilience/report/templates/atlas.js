"use strict";
// What is chosen is in `state`, and in the hash of the URL; `show` draws it. Bokeh draws the plots: they share one
// source, whose selection is the chosen cluster (or those in a box), and one view, whose filter is the filter.
(() => {
  const $ = (id) => document.getElementById(id);
  const data = JSON.parse($("data").textContent);
  const clusters = data.clusters;
  const ROWS = 200; // of the list: more would be slow
  const DEFAULTS = { cluster: "", search: "", layer: "", class: "", motif: "", least: "0", significant: "", color: "layer", sort: "" };
  const state = { ...DEFAULTS };
  let visible = []; // numbers of clusters that pass the filter, in the order of the list
  let boxed = []; // those in a box that was drawn in a plot
  let plots = null;

  const el = (tag, attributes = {}, ...children) => {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
      else if (value !== null && value !== undefined) element.setAttribute(name, value);
    }
    element.append(...children.filter((child) => child !== null));
    return element;
  };
  const fixed = (value, digits = 2) => (value === null || value === undefined ? "–" : value.toFixed(digits));
  const nameOf = (cluster) => `${data.layers[cluster.layer].name} / ${cluster.number}`;
  const classOf = (cluster) => (cluster.favourite === null ? "–" : data.classes[cluster.favourite]);
  const motifOf = (cluster) => (cluster.motif === null ? "–" : data.motifs[cluster.motif]);
  const byName = new Map(clusters.map((cluster, i) => [nameOf(cluster), i]));

  // --- colors -----------------------------------------------------------------------------------------------------

  const hue = (i, n) => `hsl(${Math.round((360 * i) / Math.max(1, n) + 210) % 360} 62% 52%)`;
  const ramp = (share) => `hsl(${Math.round(210 - 180 * share)} ${Math.round(25 + 55 * share)}% 52%)`;
  const NONE = "#9a9a9a";
  const COLORS = {
    layer: { keys: data.layers.map((layer) => layer.name), of: (c) => c.layer },
    class: { keys: data.classes, of: (c) => c.favourite },
    motif: { keys: data.motifs, of: (c) => c.motif },
    frequency: { steps: ["0", "0.25", "0.5", "0.75", "1"], of: (c) => c.frequency },
    q: { keys: ["q ≤ 0.05", "not significant"], of: (c) => (c.q === null ? null : Number(c.q > 0.05)) },
  };
  const colorOf = (cluster) => {
    const { keys, of } = COLORS[state.color];
    const value = of(cluster);
    if (value === null) return NONE;
    return keys ? hue(value, keys.length) : ramp(value);
  };

  // --- state, hash, filter ------------------------------------------------------------------------------------------

  const fromHash = () => {
    const given = new URLSearchParams(location.hash.slice(1));
    for (const name of Object.keys(DEFAULTS)) state[name] = given.get(name) ?? DEFAULTS[name];
    if (!byName.has(state.cluster)) state.cluster = "";
    if (!(state.color in COLORS)) state.color = DEFAULTS.color;
  };
  const toHash = () => {
    const kept = Object.entries(state).filter(([name, value]) => value !== DEFAULTS[name]);
    const text = new URLSearchParams(kept).toString();
    if (text !== location.hash.slice(1)) history.replaceState(null, "", text ? `#${text}` : location.pathname);
  };
  const set = (changes) => {
    Object.assign(state, changes);
    toHash();
    show();
  };
  const passes = (cluster) =>
    (state.layer === "" || data.layers[cluster.layer].name === state.layer) &&
    (state.class === "" || classOf(cluster) === state.class) &&
    (state.motif === "" || motifOf(cluster) === state.motif) &&
    cluster.frequency >= Number(state.least) &&
    (state.significant === "" || (cluster.q !== null && cluster.q <= 0.05)) &&
    state.search.toLowerCase().split(/\s+/).filter((word) => word !== "/").every((word) =>
      nameOf(cluster).toLowerCase().includes(word));

  // --- list ---------------------------------------------------------------------------------------------------------

  const COLUMNS = [
    ["cluster", nameOf, (i) => i],
    ["frequency", (c) => fixed(c.frequency), (i) => -clusters[i].frequency],
    ["units", (c) => String(c.size), (i) => -clusters[i].size],
    ["stability", (c) => fixed(c.stability), (i) => -(clusters[i].stability ?? -1)],
    ["recurrence", (c) => fixed(c.recurrence), (i) => -(clusters[i].recurrence ?? -1)],
    ["q", (c) => fixed(c.q, 3), (i) => clusters[i].q ?? 2],
    ["class", classOf, (i) => clusters[i].favourite ?? 1e9],
    ["selectivity", (c) => fixed(c.selectivity), (i) => -(clusters[i].selectivity ?? -1)],
    ["motif", motifOf, (i) => clusters[i].motif ?? 1e9],
  ].filter(([name]) => (name !== "class" && name !== "selectivity") || data.classes.length)
    .filter(([name]) => name !== "motif" || data.motifs.length);

  const listHead = () => {
    const head = $("list").querySelector("thead tr");
    head.replaceChildren(...COLUMNS.map(([name], i) =>
      el("th", { scope: "col", class: i ? null : "text" }, el("button", { type: "button", onclick: () => set({ sort: name === "cluster" ? "" : name }) }, name))));
  };
  const list = () => {
    const shown = (boxed.length ? visible.filter((i) => boxed.includes(i)) : visible);
    const chosen = byName.get(state.cluster);
    const start = Math.max(0, Math.min(shown.indexOf(chosen) - ROWS / 2, shown.length - ROWS));
    $("list").querySelector("tbody").replaceChildren(...shown.slice(start, start + ROWS).map((i) =>
      el("tr", { "aria-selected": String(i === chosen), "data-cluster": nameOf(clusters[i]), onclick: () => choose(i) },
        ...COLUMNS.map(([, text], column) => (column ? el("td", {}, text(clusters[i])) : el("th", { scope: "row" }, text(clusters[i])))))));
    $("list").querySelector('[aria-selected="true"]')?.scrollIntoView({ block: "nearest" });
    $("more").textContent = shown.length > ROWS ? `${ROWS} of ${shown.length} are listed.` : "";
    $("count").textContent = `${visible.length} of ${clusters.length} clusters of ${data.layers.length} layers, ${data.members} networks${boxed.length ? `; ${shown.length} in the box` : ""}.`;
  };

  // --- detail -------------------------------------------------------------------------------------------------------

  const sheets = new Map(); // decoded sprites, by URI
  const sheet = (sprite) => {
    if (!sheets.has(sprite.uri)) {
      const image = new Image();
      image.src = sprite.uri;
      sheets.set(sprite.uri, image.decode().then(() => image));
    }
    return sheets.get(sprite.uri);
  };
  const tile = (sprite, number, size, title, box = null) => {
    const scale = Math.max(1, Math.round(size / Math.max(sprite.width, sprite.height)));
    const canvas = el("canvas", { width: sprite.width * scale, height: sprite.height * scale, role: "img", "aria-label": title });
    sheet(sprite).then((image) => {
      const context = canvas.getContext("2d");
      context.imageSmoothingEnabled = false;
      const [x, y] = [(number % sprite.columns) * sprite.width, Math.floor(number / sprite.columns) * sprite.height];
      context.drawImage(image, x, y, sprite.width, sprite.height, 0, 0, canvas.width, canvas.height);
      if (box) {
        const [top, left, bottom, right] = box;
        const [vertical, horizontal] = [canvas.height / data.imageSize[0], canvas.width / data.imageSize[1]];
        context.strokeStyle = "#ff8c1a";
        context.lineWidth = 2;
        context.strokeRect(left * horizontal + 1, top * vertical + 1, (right - left) * horizontal - 2, (bottom - top) * vertical - 2);
      }
      canvas.dataset.drawn = "yes";
    });
    return canvas;
  };
  const captioned = (picture, ...text) => el("figure", {}, picture, el("figcaption", {}, ...text));
  const facts = (pairs) => el("dl", {}, ...pairs.filter(([, value]) => value !== null).flatMap(([term, value]) => [el("dt", {}, term), el("dd", {}, value)]));
  const isWhole = (box) => box[0] === 0 && box[1] === 0 && box[2] === data.imageSize[0] && box[3] === data.imageSize[1];

  const means = (cluster) => {
    const largest = Math.max(...cluster.means.map(Math.abs), 1e-9);
    return el("div", { class: "means" }, ...cluster.means.flatMap((mean, i) => {
      const width = (50 * Math.abs(mean)) / largest;
      return [el("span", {}, data.classes[i]), el("div", {}, el("i", { style: `width:${width}%;left:${mean < 0 ? 50 - width : 50}%` })), el("span", {}, fixed(mean))];
    }));
  };
  const examples = (cluster) => {
    if (cluster.examples.some((example) => example[4])) {
      return el("ul", { class: "contexts" }, ...cluster.examples.map(([, , , , [before, token, after]]) =>
        el("li", {}, el("span", {}, before), el("mark", {}, token), el("span", {}, after))));
    }
    return el("div", { class: "tiles" }, ...cluster.examples.map(([sample, response, number, box, , label]) => {
      const text = `${label === null ? "" : `class ${data.classes[label]}, `}${response > 0 ? "+" : ""}${fixed(response, 1)}`;
      if (number === null) return el("span", { class: "chip" }, `sample ${sample}: ${text}`);
      const whole = !box || isWhole(box);
      return captioned(tile(data.images, number, 72, `sample ${sample}, ${text}`, whole ? null : box), text);
    }));
  };
  const links = (edges) => el("div", { class: "chips" }, ...edges.map(([number, strength, members, recurs]) =>
    el("button", { type: "button", class: "chip", title: `mean over ${members} members that own both${recurs === null ? "" : recurs ? "; recurs beyond chance" : "; does not recur beyond chance"}`, onclick: () => choose(number) },
      el("i", { style: `background:${colorOf(clusters[number])}` }), `${nameOf(clusters[number])}  ${strength > 0 ? "+" : "−"}${fixed(Math.abs(strength))}${recurs ? " •" : ""}`)));
  const units = (cluster) => {
    const members = new Map();
    for (const [member, index, p, number] of cluster.units) members.set(member, [...(members.get(member) ?? []), [index, p, number]]);
    const pictures = cluster.units.filter((unit) => unit[3] !== null).map(([member, index, , number]) =>
      captioned(tile(data.layers[cluster.layer].weights, number, 44, `weights of unit ${index} of member ${member}`), `${member}:${index}`));
    return [
      pictures.length ? el("div", { class: "tiles" }, ...pictures) : null,
      el("div", { class: "units" }, [...members].map(([member, its]) =>
        `member ${member}: ${its.map(([index, p]) => (p === null ? `unit ${index}` : `unit ${index} (p ${p < 0.001 ? "< 0.001" : `= ${fixed(p, 3)}`})`)).join(", ")}`).join("; ")),
    ];
  };
  const detail = () => {
    const i = byName.get(state.cluster);
    if (i === undefined) {
      $("detail").replaceChildren(el("p", { class: "note" }, "No cluster is chosen. Click a point, or press j."));
      return;
    }
    const cluster = clusters[i], layer = data.layers[cluster.layer];
    const chance = (value) => (value === null || value === undefined ? "" : ` (layer’s mean by chance: ${fixed(value)})`);
    const section = (heading, ...content) => (content.flat().some((part) => part) ? [el("h3", {}, heading), ...content.flat().filter((part) => part)] : []);
    $("detail").replaceChildren(...[
      el("h2", {}, nameOf(cluster)),
      facts([
        ["frequency", `${fixed(cluster.frequency)}: ${Math.round(cluster.frequency * data.members)} of ${data.members} members${chance(layer.frequency_by_chance)}`],
        ["units", String(cluster.size)],
        ["stability", cluster.stability === null ? null : fixed(cluster.stability) + chance(layer.stability_by_chance)],
        ["recurrence", cluster.recurrence === null ? null : `${fixed(cluster.recurrence)} (by chance ${fixed(cluster.chance)})`],
        ["q-value", cluster.q === null ? "not measured" : `${cluster.q < 0.001 ? "< 0.001" : fixed(cluster.q, 3)}: ${cluster.q <= 0.05 ? "significant" : "not significant"}`],
        ["class", cluster.favourite === null ? null : `${classOf(cluster)} (selectivity ${fixed(cluster.selectivity)})`],
      ]),
      cluster.motif === null ? null : el("p", { class: "chips" }, el("button", { type: "button", class: "chip", onclick: () => set({ motif: motifOf(cluster) }) }, motifOf(cluster))),
      ...section("What excites it", cluster.examples.length ? examples(cluster) : null),
      ...section("Mean response by class", cluster.means.length ? means(cluster) : null),
      ...section("Reads from", cluster.reads.length ? links(cluster.reads) : null),
      ...section("Writes to", cluster.writes.length ? links(cluster.writes) : null),
      ...section("Weights of the centroid", cluster.tile === null ? null : el("div", { class: "tiles" }, tile(layer.weights, cluster.tile, 88, "weights of the centroid"))),
      ...section("Units of its members", units(cluster)),
    ].filter((part) => part));
    $("detail").scrollTop = 0;
  };

  // --- all together -------------------------------------------------------------------------------------------------

  const choose = (i) => set({ cluster: i === undefined ? "" : nameOf(clusters[i]) });
  const controls = () => {
    for (const name of ["search", "layer", "class", "motif", "least", "color"]) if ($(name).value !== state[name]) $(name).value = state[name];
    $("significant").checked = state.significant !== "";
    $("least-shown").textContent = fixed(Number(state.least));
    const { keys, steps } = COLORS[state.color];
    const entries = keys ? keys.map((key, i) => [key, hue(i, keys.length)]) : steps.map((step) => [step, ramp(Number(step))]);
    $("legend").replaceChildren(...entries.slice(0, 24).map(([key, color]) => el("li", {}, el("i", { style: `background:${color}` }), key)));
  };
  const drawPlots = () => {
    if (!plots) return;
    const kept = new Set(visible), chosen = byName.get(state.cluster);
    for (const view of plots.views) view.filter.booleans = clusters.map((_, i) => kept.has(i));
    plots.source.data.color = clusters.map(colorOf);
    plots.source.change.emit();
    plots.quiet = true;
    plots.source.selected.indices = boxed.length ? boxed : chosen === undefined ? [] : [chosen];
    plots.quiet = false;
  };
  const show = () => {
    visible = clusters.map((_, i) => i).filter((i) => passes(clusters[i]));
    const column = COLUMNS.find(([name]) => name === state.sort);
    if (column) visible.sort((a, b) => column[2](a) - column[2](b) || a - b);
    controls();
    drawPlots();
    list();
    detail();
  };
  const step = (by) => {
    const from = visible.indexOf(byName.get(state.cluster));
    if (!visible.length) return;
    boxed = [];
    choose(visible[from < 0 ? (by > 0 ? 0 : visible.length - 1) : Math.max(0, Math.min(visible.length - 1, from + by))]);
  };

  const dark = matchMedia("(prefers-color-scheme: dark)");
  const theme = () => {
    const style = getComputedStyle(document.documentElement), ink = style.getPropertyValue("--muted").trim(), line = style.getPropertyValue("--line").trim();
    for (const model of plots.models) {
      if (model.type.endsWith("Axis")) Object.assign(model, { axis_label_text_color: ink, major_label_text_color: ink, axis_line_color: line, major_tick_line_color: line, minor_tick_line_color: null });
      if (model.type === "Grid") model.grid_line_color = line;
      if (model.type === "Figure") model.outline_line_color = line;
    }
  };
  const fill = (id, keys) => {
    $(id).append(...keys.map((key) => el("option", { value: key }, key)));
    if (keys.length < 2) $(id).closest("label").hidden = true;
  };

  fill("layer", data.layers.map((layer) => layer.name));
  fill("class", data.classes);
  fill("motif", data.motifs);
  for (const [name, there] of [["class", data.classes.length], ["motif", data.motifs.length], ["q", clusters.some((c) => c.q !== null)]]) if (!there) $("color").querySelector(`[value="${name}"]`).remove();
  listHead();
  fromHash();
  show();
  for (const name of ["search", "layer", "class", "motif", "least", "color"]) $(name).addEventListener("input", () => set({ [name]: $(name).value }));
  $("significant").addEventListener("input", () => set({ significant: $("significant").checked ? "1" : "" }));
  $("controls").addEventListener("submit", (event) => event.preventDefault());
  $("controls").addEventListener("reset", (event) => {
    event.preventDefault();
    boxed = [];
    set({ ...DEFAULTS, cluster: state.cluster });
  });
  addEventListener("hashchange", () => {
    boxed = [];
    fromHash();
    show();
  });
  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const typing = event.target.matches?.("input[type=search], select");
    if (event.key === "Escape") {
      event.target.blur?.();
      boxed = [];
      if (!typing) choose(undefined);
    } else if (typing || (event.target.matches?.("input[type=range]") && event.key.startsWith("Arrow"))) return;
    else if (event.key === "/") $("search").focus();
    else if (event.key === "j" || event.key === "ArrowDown") step(1);
    else if (event.key === "k" || event.key === "ArrowUp") step(-1);
    else return;
    event.preventDefault();
  });

  Bokeh.embed.embed_item(JSON.parse($("plot-data").textContent), "plots").then(() => {
    const models = [...Bokeh.documents[0]._all_models.values()];
    const source = models.find((model) => model.name === "clusters");
    plots = { models, source, views: models.filter((model) => model.type === "CDSView"), quiet: false };
    source.selected.properties.indices.change.connect(() => {
      if (plots.quiet) return;
      const indices = source.selected.indices.slice();
      boxed = indices.length > 1 ? indices : [];
      choose(indices[0]);
    });
    theme();
    dark.addEventListener("change", theme);
    drawPlots();
    document.documentElement.dataset.ready = String(Math.round(performance.now())); // milliseconds until it can be used
  });
})();
