(() => {
  "use strict";
  const root = document.documentElement;

  const theme = document.getElementById("theme");
  theme.hidden = false;
  theme.addEventListener("click", () => {
    const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
  });

  const copy = document.getElementById("copy");
  if (copy) {
    const command = document.getElementById("command");
    const select = () => {
      const range = document.createRange();
      range.selectNodeContents(command);
      const selection = getSelection();
      selection.removeAllRanges();
      selection.addRange(range);
    };
    const done = () => {
      copy.textContent = "Copied";
      setTimeout(() => { copy.textContent = "Copy"; }, 1600);
    };
    copy.hidden = false;
    copy.addEventListener("click", async () => {
      try {
        await navigator.clipboard.writeText(command.textContent);
        done();
      } catch {
        // No clipboard for this page: the older way, and failing that the command is left selected.
        select();
        if (document.execCommand("copy")) done();
      }
    });
  }

  const plots = document.querySelector(".forest.seeds");
  const light = (seed) => {
    plots.classList.toggle("lit", seed !== null);
    for (const mark of plots.querySelectorAll("[data-seed]")) mark.classList.toggle("lit", mark.dataset.seed === seed);
  };
  plots.addEventListener("pointerover", (event) => light(event.target.closest("[data-seed]")?.dataset.seed ?? null));
  plots.addEventListener("pointerleave", () => light(null));

  addEventListener("beforeprint", () => {
    for (const details of document.querySelectorAll("details")) details.open = true;
  });
})();
