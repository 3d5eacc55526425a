"use strict";
(() => {
  const EACH = 24; // pictures on a page
  const at = (id) => document.getElementById(`browse-${id}`);
  const { folder, file } = document.getElementById("browse").dataset;
  const sets = new Map(); // slug -> what data.js holds
  const paths = new Map(); // address of a file of points -> its paths
  let [set, found, page, open] = [null, [], 0, 0];

  const make = (tag, attributes = {}, ...children) => {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    node.append(...children);
    return node;
  };
  const number = (value) => (value === null || value === undefined || Number.isNaN(value) ? "no count" : value.toLocaleString("en", { maximumFractionDigits: 1 }));
  const read = (address) => new Promise((resolve, reject) => {
    const script = make("script", { src: address });
    script.onload = resolve;
    script.onerror = () => reject(new Error(address));
    document.head.append(script);
  });
  globalThis.browse = (kind, content) => {
    if (kind === "set") sets.set(content.slug, content);
    else paths.set(`${content.slug}/${content.first}`, content);
  };

  // Numbers of a picture: what a system is wrong by; of all systems, the median.
  const errors = (system, wrong = []) => {
    for (let n = 0; n < set.ids.length; n++) {
      const count = set.systems[system].counts[n];
      wrong.push(count === null || set.true[n] === null ? NaN : count - set.true[n]);
    }
    return wrong;
  };
  const prepare = () => {
    set.wrong = set.systems.map((_, system) => errors(system));
    set.median = [];
    set.spread = [];
    for (let n = 0; n < set.ids.length; n++) {
      const counts = set.systems.map((system) => system.counts[n]).filter((count) => count !== null);
      const off = counts.map((count) => Math.abs(count - set.true[n])).sort((a, b) => a - b);
      set.median.push(set.true[n] === null || !off.length ? NaN : off[off.length >> 1]);
      set.spread.push(counts.length ? Math.max(...counts) - Math.min(...counts) : NaN);
    }
    set.text = set.ids.map((id, n) => [id, set.prompts[set.prompt[n]], ...set.shows[n].map((k) => set.classes[k])].join(" ").toLowerCase());
    const all = set.photos === "all";
    const there = new Set(all ? [] : set.photos);
    set.hasPhoto = (n) => all || there.has(n);
    set.withMap = set.strips.map((strip) => new Map(strip.map((system, place) => [system, place])));
  };

  const options = (select, first, texts) => select.replaceChildren(make("option", { value: "" }, first), ...texts.map((text, n) => make("option", { value: n }, text)));
  const chosen = (id) => (at(id).value === "" ? null : Number(at(id).value));

  const filter = () => {
    const [system, prompt, shows, least, most, wrong] = ["system", "prompt", "class", "least", "most", "wrong"].map(chosen);
    const words = at("words").value.toLowerCase().split(/\s+/).filter(Boolean);
    const off = system === null ? set.median : set.wrong[system].map(Math.abs);
    found = [];
    for (let n = 0; n < set.ids.length; n++) {
      if (prompt !== null && set.prompt[n] !== prompt) continue;
      if (shows !== null && !set.shows[n].includes(shows)) continue;
      if (least !== null && !(set.true[n] >= least && set.true[n] !== null)) continue;
      if (most !== null && !(set.true[n] <= most && set.true[n] !== null)) continue;
      if (wrong !== null && !(off[n] >= wrong)) continue;
      if (words.every((word) => set.text[n].includes(word))) found.push(n);
    }
    const orders = {
      error: (n) => -off[n], exact: (n) => off[n], relative: (n) => -off[n] / Math.max(set.true[n], 1), spread: (n) => -set.spread[n],
      many: (n) => -set.true[n], few: (n) => set.true[n],
    };
    const by = orders[at("order").value];
    if (by) {
      const keys = set.ids.map((_, n) => by(n)).map((key) => (Number.isNaN(key) ? Infinity : key));
      found.sort((a, b) => keys[a] - keys[b] || a - b);
    } else found.sort((a, b) => set.ids[a].localeCompare(set.ids[b], "en", { numeric: true }));
    page = 0;
    show();
  };

  const frame = (n, ...layers) => {
    const box = make("span", { class: "browse-frame", style: `aspect-ratio: ${set.width[n] || 4} / ${set.height[n] || 3}` });
    if (set.hasPhoto(n)) box.append(make("img", { src: `${folder}/${set.slug}/${n}.jpg`, alt: "", loading: "lazy", decoding: "async" }));
    box.append(...layers);
    return box;
  };
  const none = (text) => make("span", { class: "none" }, text);
  const said = (n, system) => {
    const count = set.systems[system].counts[n];
    if (count === null) return "no finite count";
    const off = set.wrong[system][n];
    return Number.isNaN(off) ? number(count) : `${number(count)} (${off < 0 ? "−" : "+"}${number(Math.abs(off))})`;
  };

  const show = () => {
    const pages = Math.max(1, Math.ceil(found.length / EACH));
    const system = chosen("system");
    at("cards").replaceChildren(...found.slice(page * EACH, (page + 1) * EACH).map((n) => {
      const prompt = set.prompts[set.prompt[n]];
      const answer = system === null ? `median error ${number(set.median[n])}` : said(n, system);
      const card = make("button", { type: "button", class: "browse-card", "data-picture": n },
        frame(n, ...(set.hasPhoto(n) ? [] : [none("no picture is shown")])),
        make("span", {}, `${set.ids[n]}${prompt ? ` “${prompt}”` : ""}: `), make("b", {}, number(set.true[n])), `; ${answer}`);
      return make("li", {}, card);
    }));
    at("found").textContent = `${found.length} of ${set.ids.length} pictures`;
    at("page").textContent = `page ${page + 1} of ${pages}`;
    at("back").disabled = page === 0;
    at("on").disabled = page >= pages - 1;
  };

  // One picture: the truth, then every system, as the papers list them.
  const tile = (n, system) => {
    const place = set.strip[n] < 0 ? undefined : set.withMap[set.strip[n]].get(system);
    if (place === undefined) return [none("no map is stored")];
    const longer = Math.max(set.width[n], set.height[n], 1);
    const rows = Math.max(1, Math.round((set.tile * set.height[n]) / longer));
    const many = set.strips[set.strip[n]].length;
    const style = `height: ${(many * (rows + 2) / rows) * 100}%; top: ${(-(place * (rows + 2) + 1) / rows) * 100}%`;
    return [make("span", { class: "dim" }), make("img", { class: "strip", src: `${folder}/${set.slug}/${n}.png`, alt: "", style, decoding: "async" })];
  };
  const drawPoints = async (n, box) => {
    const first = set.points.filter((start) => start <= n).at(-1);
    if (first === undefined) return;
    const key = `${set.slug}/${first}`;
    try {
      if (!paths.has(key)) await read(`${folder}/${set.slug}/points-${first}.js`);
    } catch { return; }
    const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    svg.setAttribute("viewBox", `0 0 ${set.width[n]} ${set.height[n]}`);
    svg.setAttribute("aria-hidden", "true");
    const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
    path.setAttribute("d", paths.get(key).paths[n - first] ?? "");
    path.setAttribute("stroke-width", String(Math.max(set.width[n], set.height[n]) / 130));
    svg.append(path);
    box.append(svg);
  };
  const view = () => {
    const n = found[open];
    const prompt = set.prompts[set.prompt[n]];
    at("title").textContent = `${set.ids[n]}${prompt ? ` “${prompt}”` : ""}`;
    const classes = set.shows[n].map((k) => set.classes[k]).join(", ");
    at("about").textContent = `${open + 1} of ${found.length}${classes ? `; shows ${classes}` : ""}; ${set.width[n]} × ${set.height[n]} pixels`;
    const truth = frame(n, ...(set.hasPhoto(n) ? [] : [none("no picture is shown")]));
    const card = (box, label, words, hint = "") => make("figure", { title: hint }, box, make("figcaption", {}, make("b", {}, label), make("br"), words));
    at("grid").replaceChildren(card(truth, "annotated", number(set.true[n])),
      ...set.systems.map((system, k) => card(frame(n, ...tile(n, k)), system.label, said(n, k), `${system.run}, ${system.weights.replaceAll("_", " ")}`)));
    drawPoints(n, truth);
    const box = at("view");
    box.querySelector("[data-by='-1']").disabled = open === 0;
    box.querySelector("[data-by='1']").disabled = open >= found.length - 1;
  };
  const step = (by) => {
    if (open + by < 0 || open + by >= found.length) return;
    open += by;
    view();
  };

  const choose = async () => {
    const option = at("set").selectedOptions[0];
    const slug = option.value;
    at("notice").textContent = option.dataset.notice;
    at("notice").hidden = !option.dataset.notice;
    try {
      if (!sets.has(slug)) await read(`${folder}/${slug}/${file}`);
    } catch (error) {
      at("found").textContent = `${error.message} cannot be read: it lies beside this page in the report's folder.`;
      return;
    }
    if (at("set").value !== slug) return; // another one was chosen meanwhile
    set = sets.get(slug);
    if (!set.text) prepare();
    options(at("system"), "all: the median error", set.systems.map((system) => system.label));
    options(at("prompt"), "any", set.prompts);
    options(at("class"), "anything", set.classes);
    at("prompt").disabled = set.prompts.length < 2;
    at("class").disabled = !set.classes.length;
    filter();
  };

  at("set").addEventListener("change", choose);
  at("form").addEventListener("input", (event) => { if (set && event.target !== at("set")) filter(); });
  at("form").addEventListener("submit", (event) => event.preventDefault());
  const turn = (by) => {
    page += by;
    show();
    at("cards").querySelector("button")?.focus();
  };
  at("back").addEventListener("click", () => turn(-1));
  at("on").addEventListener("click", () => turn(1));
  at("cards").addEventListener("click", (event) => {
    const card = event.target.closest("[data-picture]");
    if (!card) return;
    open = found.indexOf(Number(card.dataset.picture));
    view();
    at("view").showModal();
    at("title").focus();
  });
  at("maps").addEventListener("change", (event) => at("view").classList.toggle("bare", !event.target.checked));
  at("view").addEventListener("click", (event) => {
    if (event.target === at("view") || event.target.closest("[data-close]")) at("view").close();
    const stepper = event.target.closest("[data-by]");
    if (stepper) step(Number(stepper.dataset.by));
  });
  at("view").addEventListener("keydown", (event) => {
    if (event.key === "ArrowLeft") step(-1);
    if (event.key === "ArrowRight") step(1);
  });
  at("view").addEventListener("close", () => {
    const there = Math.floor(open / EACH);
    if (there !== page) { page = there; show(); }
    at("cards").querySelector(`[data-picture="${found[open]}"]`)?.focus();
  });
  choose();
})();
