"use strict";
(() => {
  const root = document.documentElement;
  root.classList.add("script");
  const kept = (() => { try { return localStorage; } catch { return {}; } })();
  const dark = () => root.dataset.theme
    ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  const button = document.getElementById("theme");
  const label = () => { button.textContent = dark() ? "Light" : "Dark"; };
  if (kept["glasshouse-theme"]) root.dataset.theme = kept["glasshouse-theme"];
  label();
  button.addEventListener("click", () => {
    root.dataset.theme = dark() ? "light" : "dark";
    try { kept["glasshouse-theme"] = root.dataset.theme; } catch { /* a page from a file may not keep anything */ }
    label();
  });
  const say = document.getElementById("said");
  for (const copy of document.querySelectorAll(".code button")) {
    copy.addEventListener("click", async () => {
      const text = copy.parentElement.querySelector("pre");
      try {
        await navigator.clipboard.writeText(text.textContent);
        say.textContent = "Copied";
        copy.textContent = "Copied";
      } catch {
        getSelection().selectAllChildren(text);
        copy.textContent = "Press Ctrl+C";
      }
      setTimeout(() => { copy.textContent = "Copy"; say.textContent = ""; }, 2000);
    });
  }
  for (const section of document.querySelectorAll("section.photo")) {
    section.addEventListener("pointermove", (event) => {
      const stack = event.target.closest(".stack");
      const box = stack?.getBoundingClientRect();
      section.style.setProperty("--x", stack ? (event.clientX - box.left) / box.width : -1);
      section.style.setProperty("--y", stack ? (event.clientY - box.top) / box.height : -1);
    });
    section.addEventListener("pointerleave", () => section.style.setProperty("--x", -1));
  }
})();
