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
  all(".canvas").forEach((canvas) => near.observe(canvas));
  addEventListener("beforeprint", () => { all(".canvas").forEach(draw); all("details").forEach((d) => { d.open = true; }); });

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

  // Filter: rows of every table that do not contain the words are hidden.
  document.getElementById("filter").addEventListener("input", (event) => {
    const words = event.target.value.toLowerCase().split(/\s+/).filter(Boolean);
    all("table.numbers tbody tr").forEach((row) => {
      const text = row.textContent.toLowerCase();
      row.classList.toggle("hidden", !words.every((word) => text.includes(word)));
    });
  });

  // Gallery: strength of the density, points on or off.
  all(".gallery").forEach((gallery) => {
    gallery.querySelector(".opacity").addEventListener("input", (event) => {
      gallery.style.setProperty("--overlay", String(event.target.value / 100));
    });
    gallery.querySelector(".dots").addEventListener("change", (event) => gallery.classList.toggle("dotted", event.target.checked));
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
  const links = new Map(all(".toc a").map((link) => [link.hash.slice(1), link]));
  const reading = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (!entry.isIntersecting) continue;
      links.forEach((link) => { link.classList.remove("here"); link.removeAttribute("aria-current"); });
      links.get(entry.target.id).classList.add("here");
      links.get(entry.target.id).setAttribute("aria-current", "true");
    }
  }, { rootMargin: "-15% 0px -75% 0px" });
  links.forEach((_, id) => { const section = document.getElementById(id); if (section) reading.observe(section); });
})();
