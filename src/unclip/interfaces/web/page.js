// What happens in the browser alone: keys, dropped files, frames, copying, light and dark.
(() => {
  const visible = (selector) =>
    [...document.querySelectorAll(selector)].find((one) => one.offsetParent !== null);

  // Light and dark: as the system has it, until somebody says otherwise.
  const THEME = 'unclip-theme';
  const paint = (dark) => document.body.classList.toggle('dark', dark);
  window.unclipDark = () => {
    const dark = !document.body.classList.contains('dark');
    localStorage.setItem(THEME, dark ? 'dark' : 'light');
    paint(dark);
  };
  const keep = () => {
    const kept = localStorage.getItem(THEME);
    if (kept && document.body.classList.contains('dark') !== (kept === 'dark')) paint(kept === 'dark');
  };
  const begin = () => {
    keep();
    new MutationObserver(keep).observe(document.body, { attributeFilter: ['class'] });
  };
  if (document.body) begin(); else document.addEventListener('DOMContentLoaded', begin);

  // Ctrl+Enter begins what the open tab is for, Escape cancels it.
  document.addEventListener('keydown', (event) => {
    if (event.key === 'Enter' && (event.ctrlKey || event.metaKey)) visible('button.make')?.click();
    if (event.key === 'Escape') visible('#cancel')?.click();
  });

  // A slider that keys have moved is let go of, too.
  document.addEventListener('keyup', (event) => {
    if (event.target.matches?.('#tabs input[type=range]') && /^(Arrow|Home|End|Page)/.test(event.key))
      event.target.dispatchEvent(new PointerEvent('pointerup', { bubbles: true }));
  });

  // A PNG dropped anywhere but on a field of its own: its notes are read.
  const own = (target) =>
    target.closest?.('[data-testid="image"], .image-container, .image-editor, input[type=file], .wrap');
  const files = (event) => [...(event.dataTransfer?.types ?? [])].includes('Files');
  const overField = (event) => own(event.target) && event.target.closest('.tabitem');
  document.addEventListener('dragover', (event) => {
    if (!files(event) || overField(event)) return;
    event.preventDefault();
    document.body.classList.add('dropping');
  });
  document.addEventListener('dragleave', (event) => {
    if (!event.relatedTarget) document.body.classList.remove('dropping');
  });
  document.addEventListener('drop', (event) => {
    document.body.classList.remove('dropping');
    if (!files(event) || overField(event)) return;
    event.preventDefault();
    const input = document.querySelector('#notes input[type=file], input#notes, .notes input[type=file]')
      ?? document.querySelector('#notes')?.parentElement?.querySelector('input[type=file]');
    if (!input || !event.dataTransfer.files.length) return;
    const one = new DataTransfer();
    one.items.add(event.dataTransfer.files[0]);
    input.files = one.files;
    input.dispatchEvent(new Event('change', { bubbles: true }));
  });

  // The slider of frames.
  document.addEventListener('input', (event) => {
    const slider = event.target;
    if (!slider.matches?.('[data-frames]')) return;
    const frames = slider.closest('.frames');
    frames.querySelectorAll('img').forEach((one, k) => { one.hidden = k !== Number(slider.value); });
    const label = slider.dataset.labels.split('|')[slider.value];
    frames.querySelector('output').textContent = label;
    slider.setAttribute('aria-valuetext', label);
  });

  // Copying.
  document.addEventListener('click', async (event) => {
    const button = event.target.closest?.('[data-copy]');
    if (!button) return;
    const text = button.parentElement.querySelector('pre').textContent;
    try {
      await navigator.clipboard.writeText(text);
    } catch {  // pages that are not served from this machine, nor by TLS
      const range = document.createRange();
      range.selectNodeContents(button.parentElement.querySelector('pre'));
      getSelection().removeAllRanges();
      getSelection().addRange(range);
      document.execCommand('copy');
    }
    button.textContent = 'Copied';
    setTimeout(() => { button.textContent = 'Copy'; }, 1500);
  });
})();
