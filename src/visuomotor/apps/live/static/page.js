// One WebSocket: frames come in, commands go out. Whatever is shown of the robot comes from the last frame.
"use strict";

const find = (id) => document.getElementById(id);
const cameras = new Map(); // name -> {canvas, image}
let socket = null;
let frame = null;
let scene = null; // whose instruction stands in the box
let held = null; // {camera, start: [x, y], now: [x, y]}: an object that is being dragged

function send(command) {
  if (socket && socket.readyState === WebSocket.OPEN) socket.send(JSON.stringify(command));
  else find("message").textContent = "Not connected: nobody was told.";
}

function connect() {
  socket = new WebSocket(`ws://${location.host}/live`);
  socket.onmessage = (event) => {
    const received = JSON.parse(event.data);
    if (received.error) find("message").textContent = received.error;
    else show(received);
  };
  socket.onclose = () => {
    find("status").textContent = "not connected";
    setTimeout(connect, 1000);
  };
}

function show(received) {
  frame = received;
  find("status").textContent = frame.status;
  find("message").textContent = frame.message;
  find("step").textContent = frame.step;
  find("interventions").textContent = frame.interventions;
  find("interventions").title = Object.entries(frame.reasons).map(([why, n]) => `${why}: ${n}`).join(", ");
  const { last, median } = frame.latency;
  find("latency").textContent = last ? `${last.toFixed(0)} ms (median ${median.toFixed(0)})` : "–";
  find("stop").classList.toggle("latched", frame.stopped);
  find("stop").textContent = frame.stopped ? "STOPPED" : "STOP";
  find("release").hidden = !frame.stopped;
  find("run").disabled = frame.stopped;
  if (frame.scene !== scene) {
    scene = frame.scene;
    find("instruction").value = frame.instruction;
  }
  document.body.classList.toggle("server", Boolean(frame.clients));
  if (frame.clients) showServer();
  for (const [name, url] of Object.entries(frame.images)) showCamera(name, url);
  showText(frame.chunk ? frame.chunk.text : {});
  showCurves(frame.chunk ? frame.chunk.curves : {}, frame.position);
}

// A policy server: its clients give the instructions, and one of them is shown.
function showServer() {
  const choice = find("client");
  const names = frame.clients;
  if ([...choice.options].slice(1).map((option) => option.value).join() !== names.join()) {
    choice.replaceChildren(choice.options[0], ...names.map((name) => new Option(name, name)));
  }
  choice.value = frame.chosen;
  choice.title = frame.client && `shown: ${frame.client}`;
  find("connected").textContent = names.length;
  find("batch").textContent = frame.batch || "–";
  find("told").textContent = frame.instruction;
  find("stop").title = "From now on every answer is a hold (Escape). What clients have already got, they execute.";
}

function showCamera(name, url) {
  if (!cameras.has(name)) {
    const figure = document.createElement("figure");
    const canvas = document.createElement("canvas");
    const caption = document.createElement("figcaption");
    canvas.className = "camera";
    canvas.dataset.camera = name;
    canvas.width = canvas.height = 768;
    caption.textContent = frame.movable && cameras.size === 0 ? `${name}: drag an object to move it` : name;
    canvas.classList.toggle("movable", frame.movable);
    figure.append(canvas, caption);
    find("cameras").append(figure);
    const image = new Image();
    image.onload = () => {
      canvas.height = Math.round((canvas.width * image.height) / image.width);
      draw(name);
    };
    cameras.set(name, { canvas, image });
    listen(canvas, name);
  }
  cameras.get(name).image.src = url;
}

function draw(name) {
  const { canvas, image } = cameras.get(name);
  const pen = canvas.getContext("2d");
  const at = ([x, y]) => [(x / 1000) * canvas.width, (y / 1000) * canvas.height];
  pen.drawImage(image, 0, 0, canvas.width, canvas.height);
  const chunk = frame.chunk;
  if (chunk) {
    const marks = chunk.marks || {};
    if (marks.camera === name) drawMarks(pen, at, marks);
    if (chunk.path[name]) line(pen, chunk.path[name].map((point) => point && at(point)), "#ff5c35", frame.position);
  }
  if (held && held.camera === name) {
    line(pen, [at(held.start), at(held.now)], "#ffffff");
  }
}

function drawMarks(pen, at, marks) {
  pen.lineWidth = 4;
  pen.font = "600 24px system-ui, sans-serif";
  for (const [label, [x1, y1, x2, y2]] of Object.entries(marks.boxes || {})) {
    const [left, top] = at([Math.min(x1, x2), Math.min(y1, y2)]);
    const [right, bottom] = at([Math.max(x1, x2), Math.max(y1, y2)]);
    pen.strokeStyle = pen.fillStyle = "#ffd60a";
    pen.strokeRect(left, top, right - left, bottom - top);
    pen.strokeStyle = "#1b1c1e";
    pen.strokeText(label, left, Math.max(top - 8, 22));
    pen.fillText(label, left, Math.max(top - 8, 22));
  }
  if (marks.trace && marks.trace.length) line(pen, marks.trace.map(at), "#17becf");
}

// A path with its end as a dot; what lies before `done` has been executed and is drawn thin, what is null is not seen.
function line(pen, points, colour, done = 0) {
  pen.strokeStyle = pen.fillStyle = colour;
  pen.lineCap = pen.lineJoin = "round";
  for (let i = 1; i < points.length; i++) {
    if (!points[i - 1] || !points[i]) continue;
    pen.lineWidth = i <= done ? 2 : 6;
    pen.beginPath();
    pen.moveTo(...points[i - 1]);
    pen.lineTo(...points[i]);
    pen.stroke();
  }
  const end = points[points.length - 1];
  if (!end) return;
  pen.beginPath();
  pen.arc(...end, 9, 0, 7);
  pen.fill();
}

function showText(text) {
  const entries = Object.entries(text);
  const list = find("text");
  list.replaceChildren();
  for (const [level, words] of entries) {
    const term = document.createElement("dt");
    const said = document.createElement("dd");
    term.textContent = level;
    said.textContent = words;
    said.dataset.level = level;
    list.append(term, said);
  }
  if (!entries.length) {
    const said = document.createElement("dd");
    said.className = "quiet";
    const nothing = frame.clients ? "Nothing yet: no client has asked." : "Nothing yet: give it an instruction.";
    said.textContent = frame.chunk ? "This policy acts without words." : nothing;
    list.append(said);
  }
}

function showCurves(curves, position) {
  const place = find("curves");
  const names = Object.keys(curves);
  if (place.children.length !== names.length) {
    place.replaceChildren();
    for (const name of names) {
      const cell = document.createElement("div");
      const canvas = document.createElement("canvas");
      canvas.width = 320;
      canvas.height = 84;
      cell.append(document.createElement("span"), canvas);
      place.append(cell);
    }
  }
  names.forEach((name, i) => {
    const [label, canvas] = place.children[i].children;
    label.textContent = name;
    drawCurve(canvas, curves[name], position);
  });
}

function drawCurve(canvas, { values, low, high }, position) {
  const pen = canvas.getContext("2d");
  const reach = high - low || 1;
  const x = (i) => 10 + (i / Math.max(values.length - 1, 1)) * (canvas.width - 20);
  const y = (v) => canvas.height - 8 - ((v - low) / reach) * (canvas.height - 16);
  pen.clearRect(0, 0, canvas.width, canvas.height);
  if (low < 0 && high > 0) {
    pen.fillStyle = "#e4e5e8";
    pen.fillRect(0, y(0), canvas.width, 1);
  }
  pen.strokeStyle = "#1b1c1e";
  pen.lineWidth = 2.5;
  pen.beginPath();
  values.forEach((v, i) => (i ? pen.lineTo(x(i), y(v)) : pen.moveTo(x(i), y(v))));
  pen.stroke();
  const now = Math.min(Math.max(position - 1, 0), values.length - 1);
  pen.fillStyle = "#ff5c35";
  pen.beginPath();
  pen.arc(x(now), y(values[now]), 6, 0, 7);
  pen.fill();
}

// Drag an object, or click it and then click where it should go.
function listen(canvas, camera) {
  const where = (event) => {
    const box = canvas.getBoundingClientRect();
    const share = (value, size) => Math.min(Math.max((1000 * value) / size, 0), 1000);
    return [share(event.clientX - box.left, box.width), share(event.clientY - box.top, box.height)];
  };
  const drop = (point) => {
    send({ do: "move", camera, start: held.start, end: point });
    held = null;
    draw(camera);
  };
  canvas.addEventListener("pointerdown", (event) => {
    if (!frame.movable) return;
    const point = where(event);
    if (held && held.clicked && held.camera === camera) return drop(point);
    held = { camera, start: point, now: point };
    canvas.setPointerCapture(event.pointerId);
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!held || held.camera !== camera) return;
    held.now = where(event);
    draw(camera);
  });
  canvas.addEventListener("pointerup", (event) => {
    if (!held || held.camera !== camera) return;
    const point = where(event);
    if (Math.hypot(point[0] - held.start[0], point[1] - held.start[1]) > 15) drop(point);
    else held.clicked = true;
  });
}

find("stop").addEventListener("click", () => send({ do: "stop" }));
find("release").addEventListener("click", () => send({ do: "release" }));
find("pause").addEventListener("click", () => send({ do: "pause" }));
find("client").addEventListener("change", () => send({ do: "watch", client: find("client").value }));
find("scene").addEventListener("click", () => send({ do: "scene" }));
find("tell").addEventListener("submit", (event) => {
  event.preventDefault();
  send({ do: "instruct", text: find("instruction").value });
});
find("instruction").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey) {
    event.preventDefault();
    find("tell").requestSubmit();
  }
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") {
    if (held) held = null;
    send({ do: "stop" });
  }
});
connect();
