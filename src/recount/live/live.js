"use strict";
(() => {
  const told = document.getElementById("told");
  let last = "";
  const again = async () => {
    if (document.hidden) return;
    try {
      const answer = await fetch("/", { cache: "no-store" });
      if (!answer.ok) throw new Error(answer.statusText);
      const next = new DOMParser().parseFromString(await answer.text(), "text/html");
      const main = document.querySelector("main");
      const focused = document.activeElement?.closest("[id]")?.id;
      for (const open of main.querySelectorAll("details[id]")) {
        const same = next.getElementById(open.id);
        if (same) same.open = open.open;
      }
      main.replaceChildren(...next.querySelector("main").childNodes);
      document.title = next.title;
      if (focused) (document.querySelector(`#${CSS.escape(focused)} > summary`) ?? document.getElementById(focused))?.focus();
      const counted = main.dataset.counted = next.querySelector("main").dataset.counted;
      if (counted !== last) told.textContent = counted;
      last = counted;
    } catch {
      told.textContent = "No answer: recount status --serve was ended. This is how things stood last.";
      last = "";
    }
  };
  setInterval(again, SECONDS * 1000);
  document.addEventListener("visibilitychange", again);
})();
