// What is wrong with a page, in words: nothing may be wider than the window, be cut, overlap, or be too small to read.
function faults(frame) {
  const page = frame.contentDocument, view = frame.contentWindow, wide = page.documentElement.clientWidth, found = [];
  for (const one of page.querySelectorAll('details')) one.open = true;
  if (page.documentElement.scrollWidth > wide) found.push(`the page is ${page.documentElement.scrollWidth} wide`);
  const scrolls = (e) => {
    for (; e; e = e.parentElement) if (/auto|scroll/.test(view.getComputedStyle(e).overflowX)) return true;
    return false;
  };
  for (const e of page.body.querySelectorAll('*')) {
    const box = e.getBoundingClientRect();
    if (!box.width || e.closest('svg') && e.tagName !== 'svg') continue;
    if ((box.right > wide + 1 || box.left < -1) && !scrolls(e)) found.push(`<${e.tagName} ${e.className}> ends at ${box.right}`);
    const style = view.getComputedStyle(e);
    if (/hidden|clip/.test(style.overflowX) && e.scrollWidth > e.clientWidth + 1) found.push(`<${e.tagName}> is cut`);
    if (wide > 1000 && e.className === 'scroll' && e.innerText.trim() && e.scrollWidth > e.clientWidth + 1) found.push(`a table is cut: ${e.innerText.slice(0, 60)}`);
    if (e.tagName === 'svg' && box.right > e.parentElement.getBoundingClientRect().right + 1) found.push('a figure is cut at its side');
  }
  for (const svg of page.querySelectorAll('svg')) {
    const all = svg.getBoundingClientRect(), texts = [...svg.querySelectorAll('text')].filter((t) => t.textContent.trim());
    const boxes = texts.map((t) => t.getBoundingClientRect());
    texts.forEach((t, i) => {
      const box = boxes[i], words = t.textContent.trim(), matrix = t.getScreenCTM();
      const scale = Math.hypot(matrix.a, matrix.b), seen = parseFloat(view.getComputedStyle(t).fontSize) * scale;
      if (seen < 7.9) found.push(`'${words}' is ${seen.toFixed(1)} pixels high`);
      if (box.left < all.left - 1 || box.right > all.right + 1 || box.top < all.top - 1 || box.bottom > all.bottom + 1)
        found.push(`'${words}' reaches out of its figure`);
      for (let j = 0; j < i; j++) {
        const b = boxes[j];
        const across = Math.min(box.right, b.right) - Math.max(box.left, b.left);
        const down = Math.min(box.bottom, b.bottom) - Math.max(box.top, b.top);
        if (across > 1 && down > 0.35 * Math.min(box.height, b.height)) found.push(`'${words}' lies on '${texts[j].textContent.trim()}'`);
      }
    });
    for (const axis of svg.querySelectorAll('[id*="matplotlib.axis_"]')) {
      const ticks = [...axis.querySelectorAll('g[id*="tick_"] text')].filter((t) => t.textContent.trim());
      const any = axis.querySelectorAll('g[id*="tick_"]').length;
      if (any && ticks.length < 2) found.push(`${ticks.length} ticks on an axis of '${svg.getAttribute('aria-label')}'`);
    }
    const plot = svg.querySelector('[id$="patch_2"]');
    for (const mark of svg.querySelectorAll('[id*="-mark"]')) {
      const box = mark.getBoundingClientRect(), frame = plot.getBoundingClientRect();
      if (box.left < frame.left - 2 || box.right > frame.right + 2) found.push('d90 lies outside its figure');
    }
  }
  const back = view.getComputedStyle(page.body).backgroundColor, ink = view.getComputedStyle(page.body).color;
  return {found: [...new Set(found)], back, ink};
}
