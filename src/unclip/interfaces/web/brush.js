// Brushing over an image: strokes in parts of its width and height, drawn here to be seen, and by
// the server as the mask. Arrows move the brush, the space bar puts it on the image and lifts it.
const easel = element.querySelector('.easel');
const [image, canvas] = [easel.querySelector('img'), easel.querySelector('canvas')];
const width = element.querySelector('input[type=range]');
const pen = canvas.getContext('2d');
const source = () => document.querySelector('#inpaint-image [data-testid="image"] img, #inpaint-image img');
let strokes = [], current = null, cursor = null, kept = true;

const read = (text) => { try { return JSON.parse(text || '[]'); } catch { return []; } };

function draw() {
  const [w, h] = [canvas.width, canvas.height];
  pen.clearRect(0, 0, w, h);
  pen.lineCap = pen.lineJoin = 'round';
  pen.strokeStyle = pen.fillStyle = '#7c3aed';
  for (const [broad, ...points] of current ? [...strokes, current] : strokes) {
    const [x, y] = [points[0] * w, points[1] * h];
    pen.lineWidth = broad * w;
    pen.beginPath();
    pen.moveTo(x, y);
    for (let k = 0; k < points.length; k += 2) pen.lineTo(points[k] * w, points[k + 1] * h);
    pen.stroke();
  }
  if (!cursor || document.activeElement !== canvas) return;
  pen.lineWidth = 2;
  pen.beginPath();
  pen.arc(cursor[0] * w, cursor[1] * h, width.value * w / 200, 0, 7);
  pen.stroke();
}

function say() {
  props.value = JSON.stringify(strokes);
  trigger('change');
}

function begin(at) { current = [width.value / 100, ...at]; draw(); }
function go(at) { if (current) current.push(...at); draw(); }
function end() {
  if (!current) return;
  strokes = [...strokes, current.map((one) => Math.round(one * 1e4) / 1e4)];
  current = null;
  draw();
  say();
}

function at(event) {
  const box = canvas.getBoundingClientRect();
  return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
}
canvas.addEventListener('pointerdown', (event) => {
  if (event.button) return;
  canvas.setPointerCapture(event.pointerId);
  begin(at(event));
});
canvas.addEventListener('pointermove', (event) => { if (current && event.buttons) go(at(event)); });
canvas.addEventListener('pointerup', end);
canvas.addEventListener('pointercancel', end);

const MOVES = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
canvas.addEventListener('focus', () => { cursor ??= [0.5, 0.5]; draw(); });
canvas.addEventListener('blur', () => { end(); draw(); });
canvas.addEventListener('keydown', (event) => {
  const move = MOVES[event.key];
  if (move) {
    const step = width.value / 200;
    cursor = cursor.map((one, k) => Math.min(1, Math.max(0, one + move[k] * step)));
    go([...cursor]);
  } else if (event.key === ' ') {
    if (current) end(); else begin([...cursor]);
  } else return;
  event.preventDefault();
});

element.addEventListener('click', (event) => {
  const what = event.target.dataset.brush;
  if (!what) return;
  strokes = what === 'undo' ? strokes.slice(0, -1) : [];
  draw();
  say();
});

// What the form says from elsewhere: notes, a reload.
watch('value', () => {
  if (props.value === JSON.stringify(strokes)) return;
  [strokes, kept] = [read(props.value), true];
  draw();
});

// The image that the form has; with another one the strokes go, unless they came after it.
function look() {
  const shown = source()?.src ?? '';
  if (shown === (image.getAttribute('src') ?? '')) return;
  if (image.getAttribute('src') && !kept && strokes.length) { strokes = []; say(); }
  kept = false;
  easel.parentElement.hidden = true;
  if (shown) image.src = shown; else image.removeAttribute('src');
}
image.addEventListener('load', () => {
  [canvas.width, canvas.height] = [640, Math.max(1, Math.round(640 * image.naturalHeight / image.naturalWidth))];
  easel.parentElement.hidden = false;
  draw();
});
strokes = read(props.value);
new MutationObserver(look).observe(document.querySelector('#inpaint-image'),
  { subtree: true, childList: true, attributes: true, attributeFilter: ['src'] });
look();
