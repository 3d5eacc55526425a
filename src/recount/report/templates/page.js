"use strict";
(() => {
  const root = document.documentElement;
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];

  // Theme: as the system, light, dark; remembered where the browser lets a file remember.
  const themes = ["system", "light", "dark"];
  const signs = { system: "◐", light: "○", dark: "●" };
  const remembered = () => { try { return localStorage.getItem("recount-theme"); } catch { return null; } };
  const button = document.getElementById("theme");
  const setTheme = (theme) => {
    if (theme === "system") root.removeAttribute("data-theme"); else root.dataset.theme = theme;
    button.textContent = signs[theme];
    button.setAttribute("aria-label", `Colour theme: ${theme === "system" ? "as the system" : theme}; change`);
    button.value = theme;
    try { localStorage.setItem("recount-theme", theme); } catch { /* a page from disk may be refused storage */ }
  };
  setTheme(themes.includes(remembered()) ? remembered() : "system");
  button.addEventListener("click", () => setTheme(themes[(themes.indexOf(button.value) + 1) % themes.length]));

  // Figures are drawn when they come near, and all of them before printing.
  const draw = (canvas) => {
    const template = canvas.querySelector("template");
    if (template) template.replaceWith(template.content);
  };
  const near = new IntersectionObserver((entries) => {
    for (const entry of entries) if (entry.isIntersecting) { draw(entry.target); near.unobserve(entry.target); }
  }, { rootMargin: "1200px" });
  all("div.canvas").forEach((canvas) => near.observe(canvas));
  addEventListener("beforeprint", () => { all("div.canvas").forEach(draw); all("img").forEach((i) => { i.loading = "eager"; }); all("details").forEach((d) => { d.open = true; }); });

  // Sorting: ascending, descending, then the paper's own order again. Cells without a number stay last.
  const key = (row, column) => {
    const cell = row.cells[column];
    if (cell.dataset.value !== undefined) return cell.dataset.value === "" ? null : Number(cell.dataset.value);
    const text = cell.textContent.trim();
    return text !== "" && !Number.isNaN(Number(text)) ? Number(text) : text.toLowerCase();
  };
  const compare = (a, b) => (typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b)));
  const sortBy = (table, head) => {
    const body = table.tBodies[0];
    const rows = [...body.rows];
    rows.forEach((row, place) => { row.dataset.place ??= place; });
    const next = { none: "ascending", ascending: "descending", descending: "none" }[head.getAttribute("aria-sort") ?? "none"];
    all("[aria-sort]", table).forEach((other) => other.removeAttribute("aria-sort"));
    const column = [...head.parentElement.cells].indexOf(head);
    if (next === "none") rows.sort((a, b) => a.dataset.place - b.dataset.place);
    else {
      head.setAttribute("aria-sort", next);
      const sign = next === "ascending" ? 1 : -1;
      rows.sort((a, b) => {
        const [x, y] = [key(a, column), key(b, column)];
        if (x === null || y === null) return (x === null) - (y === null);
        return sign * compare(x, y);
      });
    }
    body.append(...rows);
  };
  all("table.sortable").forEach((table) => all(".sort", table).forEach((sorter) => {
    sorter.addEventListener("click", () => sortBy(table, sorter.closest("th")));
  }));

  // Search and filter: rows without the words, or without the chosen status or verdict, are hidden, and with them the
  // sections whose rows are all hidden.
  const words = document.getElementById("filter");
  const only = document.getElementById("only");
  const rows = all("table.numbers tbody tr, .claim");
  const texts = new Map();
  const matches = (row, wanted, mark) => {
    if (mark && !(row.dataset.marks ?? "").split(";").includes(mark)) return false;
    if (!texts.has(row)) texts.set(row, row.textContent.toLowerCase());
    return wanted.every((word) => texts.get(row).includes(word));
  };
  const filter = () => {
    const wanted = words.value.toLowerCase().split(/\s+/).filter(Boolean);
    const active = wanted.length > 0 || only.value !== "";
    let left = 0;
    for (const row of rows) {
      const shown = !active || matches(row, wanted, only.value);
      row.classList.toggle("hidden", !shown);
      left += shown;
    }
    all("main section, main details.beside").forEach((section) => {
      const inside = all("table.numbers tbody tr, .claim", section);
      section.classList.toggle("hidden", active && inside.length > 0 && inside.every((row) => row.classList.contains("hidden")));
    });
    document.getElementById("found").textContent = active ? `${left} of ${rows.length} rows and claims` : "";
  };
  words?.addEventListener("input", filter);
  only?.addEventListener("change", filter);
  words?.form.addEventListener("submit", (event) => event.preventDefault());

  // Gallery: strength of the density, points on or off.
  all(".gallery").forEach((gallery) => {
    gallery.querySelector(".opacity")?.addEventListener("input", (event) => {
      gallery.style.setProperty("--overlay", String(event.target.value / 100));
    });
    gallery.querySelector(".dots")?.addEventListener("change", (event) => gallery.classList.toggle("dotted", event.target.checked));
  });

  // Lightbox: the card again, larger; arrows step through the same row of pictures.
  const box = document.getElementById("lightbox");
  let row = [];
  let place = 0;
  const show = () => {
    const card = row[place];
    const frame = card.querySelector(".frame").cloneNode(true);
    const [width, height] = frame.style.aspectRatio.split("/").map(Number);
    frame.style.width = `min(100%, calc(78vh * ${width / height}))`;
    frame.setAttribute("tabindex", "-1");
    const holder = document.createElement("div");
    holder.className = card.classList.contains("truth") ? "card truth" : "card";
    holder.style.cssText = "width: 100%; display: grid; place-items: center";
    holder.style.setProperty("--overlay", getComputedStyle(card).getPropertyValue("--overlay"));
    holder.append(frame);
    box.querySelector(".stage").replaceChildren(holder);
    box.querySelector(".words").textContent = card.querySelector("figcaption").textContent.replace(/\s+/g, " ").trim();
  };
  const step = (by) => { place = (place + by + row.length) % row.length; show(); };
  document.addEventListener("click", (event) => {
    const frame = event.target.closest(".gallery .frame");
    if (!frame) return;
    const card = frame.closest(".card");
    row = all(".card", card.parentElement);
    place = row.indexOf(card);
    show();
    box.showModal();
  });
  box.addEventListener("click", (event) => {
    if (event.target === box || event.target.closest("[data-close]")) box.close();
    const stepper = event.target.closest("[data-step]");
    if (stepper) step(Number(stepper.dataset.step));
  });
  box.addEventListener("keydown", (event) => {
    if (event.key === "ArrowLeft") step(-1);
    if (event.key === "ArrowRight") step(1);
  });

  // Contents: mark the section that is being read.
  const contents = document.getElementById("contents");
  const links = new Map(all("a:not(.page)", contents).map((link) => [decodeURIComponent(link.hash.slice(1)), link]));
  const reading = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (!entry.isIntersecting) continue;
      links.forEach((link) => { link.classList.remove("here"); link.removeAttribute("aria-current"); });
      const link = links.get(entry.target.id);
      link.classList.add("here");
      link.setAttribute("aria-current", "true");
    }
  }, { rootMargin: "-15% 0px -75% 0px" });
  links.forEach((_, id) => { const section = document.getElementById(id); if (section) reading.observe(section); });

  // On narrow screens the contents lie over the page.
  const menu = document.getElementById("menu");
  const setMenu = (open) => { contents.classList.toggle("open", open); menu.setAttribute("aria-expanded", String(open)); };
  menu.addEventListener("click", () => setMenu(!contents.classList.contains("open")));
  contents.addEventListener("click", (event) => { if (event.target.closest("a")) setMenu(false); });
  addEventListener("keydown", (event) => {
    if (event.key === "Escape" && contents.classList.contains("open")) { setMenu(false); menu.focus(); }
  });

  // The first paint lays out what is near; the rest follows when there is time, or before a jump, which needs true heights.
  const layOut = () => root.classList.add("whole");
  (window.requestIdleCallback ?? setTimeout)(layOut);

  // An anchor that another page holds: the one whose word for it is the longest.
  const elsewhere = (anchor) => {
    let [found, length] = [null, 0];
    all("a.page", contents).forEach((link) => link.dataset.holds.split(" ").forEach((start) => {
      if (start.length > length && (anchor === start || anchor.startsWith(`${start}-`))) [found, length] = [link, start.length];
    }));
    return found && !found.hasAttribute("aria-current") ? `${found.href}#${encodeURIComponent(anchor)}` : null;
  };

  // Deep links: whatever folds around the target unfolds; then the browser's own jump is repeated.
  const unfold = () => {
    const anchor = decodeURIComponent(location.hash.slice(1));
    const target = document.getElementById(anchor);
    if (!target) {
      const page = anchor && elsewhere(anchor);
      if (page) location.replace(page);
      return;
    }
    layOut();
    for (let node = target; node; node = node.parentElement) if (node.tagName === "DETAILS") node.open = true;
    if (target.classList.contains("hidden") || target.closest(".hidden")) { words.value = ""; only.value = ""; filter(); }
    target.scrollIntoView({ behavior: "instant" }); // a smooth jump stops where figures on the way are drawn
  };
  addEventListener("hashchange", unfold);
  unfold();
})();
