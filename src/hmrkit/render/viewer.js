// People in 3D, in a page that needs nothing else. Every <div class="hmr-viewer"> holds its data as
// JSON (see viewer.py); camera frame: x right, y down, z forward, metres.
"use strict";
(() => {
  const VERTEX = `
attribute vec3 position; attribute vec3 normal;
uniform mat4 clip; uniform mat3 turn; varying vec3 n;
void main() { n = turn * normal; gl_Position = clip * vec4(position, 1.0); }`;
  // The studio of hmrkit.render.shading: soft ambient from above, key, fill and rim light.
  const FRAGMENT = `
precision mediump float; varying vec3 n; uniform vec3 color;
float soft(vec3 to, float level) { return level * max((dot(normalize(n), normalize(to)) + .25) / 1.25, 0.); }
void main() {
  float light = .46 * (.85 - .15 * normalize(n).y) + soft(vec3(-.45, -.6, -.75), .56)
    + soft(vec3(.8, -.25, -.5), .22) + soft(vec3(.25, -.55, .8), .22);
  gl_FragColor = vec4(min(color * light, 1.), 1.);
}`;

  function bytes(text) {
    return Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer;
  }

  function person(data) {
    const small = new Uint16Array(bytes(data.vertices));
    const rest = new Float32Array(small.length);
    for (let i = 0; i < small.length; i++) rest[i] = data.low[i % 3] + small[i] * data.step;
    const read = (key, Kind) => (data[key] ? new Kind(bytes(data[key])) : null);
    return {
      name: data.name, color: data.color, rest, isShown: true,
      bones: read("bones", Uint8Array), weights: read("weights", Uint16Array),
      matrices: read("matrices", Float32Array), seen: read("seen", Uint8Array),
      positions: new Float32Array(rest), normals: new Float32Array(rest.length),
    };
  }

  // Linear blend skinning of one frame: matrices hold 3 x 4 numbers for each joint.
  function pose(p, frame) {
    if (!p.matrices) return;
    const size = p.matrices.length / p.seen.length, m = p.matrices, base = frame * size;
    for (let v = 0; v < p.rest.length / 3; v++) {
      const x = p.rest[3 * v], y = p.rest[3 * v + 1], z = p.rest[3 * v + 2];
      let px = 0, py = 0, pz = 0, total = 0;
      for (let k = 4 * v; k < 4 * v + 4; k++) {
        const w = p.weights[k], j = base + 12 * p.bones[k];
        if (!w) continue;
        total += w;
        px += w * (m[j] * x + m[j + 1] * y + m[j + 2] * z + m[j + 3]);
        py += w * (m[j + 4] * x + m[j + 5] * y + m[j + 6] * z + m[j + 7]);
        pz += w * (m[j + 8] * x + m[j + 9] * y + m[j + 10] * z + m[j + 11]);
      }
      p.positions.set([px / total, py / total, pz / total], 3 * v);
    }
  }

  function smooth(p, faces) {
    const q = p.positions, n = p.normals.fill(0);
    for (let f = 0; f < faces.length; f += 3) {
      const a = 3 * faces[f], b = 3 * faces[f + 1], c = 3 * faces[f + 2];
      const ux = q[b] - q[a], uy = q[b + 1] - q[a + 1], uz = q[b + 2] - q[a + 2];
      const vx = q[c] - q[a], vy = q[c + 1] - q[a + 1], vz = q[c + 2] - q[a + 2];
      const x = uy * vz - uz * vy, y = uz * vx - ux * vz, z = ux * vy - uy * vx;
      for (const i of [a, b, c]) { n[i] += x; n[i + 1] += y; n[i + 2] += z; }
    }
    for (let i = 0; i < n.length; i += 3) { // small triangles: unit length before float16 shaders
      const s = 1 / (Math.hypot(n[i], n[i + 1], n[i + 2]) || 1);
      n[i] *= s; n[i + 1] *= s; n[i + 2] *= s;
    }
  }

  class Viewer {
    constructor(root) {
      this.root = root;
      this.data = JSON.parse(root.querySelector("script").textContent);
      const faces = bytes(this.data.faces);
      this.isWide = this.data.wideFaces;
      this.faces = this.isWide ? new Uint32Array(faces) : new Uint16Array(faces);
      this.people = this.data.people.map(person);
      this.frame = 0; this.yaw = 0; this.pitch = 0; this.zoom = 1; this.isPlaying = false;
      this.isTurning = this.isOrbit = !this.data.camera;
      this.build();
      this.show(0);
      this.measure();
      // Browsers keep about sixteen 3D canvases alive: hold one only while it can be seen.
      new IntersectionObserver((entries) => {
        const isSeen = entries[entries.length - 1].isIntersecting;
        if (isSeen) this.start(); else this.stop();
      }).observe(root);
      const place = root.getBoundingClientRect();
      if (place.top < innerHeight && place.bottom > 0) this.start();
    }

    build() {
      const make = (tag, parent, props = {}) =>
        parent.appendChild(Object.assign(document.createElement(tag), props));
      const stage = make("div", this.root, { className: "hmr-stage" });
      const { camera, picture, video } = this.data;
      const [w, h] = camera ? [camera.width, camera.height] : [1, 1];
      stage.style.aspectRatio = `${w} / ${h}`;
      stage.style.width = `min(100%, calc(80vh * ${w / h}))`;
      if (picture) this.behind = make("img", stage, { src: picture, alt: "the picture" });
      if (video) {
        this.behind = this.video = make("video", stage, { muted: true, playsInline: true, preload: "auto", src: video });
        this.video.onended = () => { this.video.currentTime = 0; if (this.isPlaying) this.video.play(); };
      }
      this.stage = stage;
      const bar = make("div", this.root, { className: "hmr-bar" });
      if (camera) {
        make("button", bar, { textContent: "Camera", onclick: () => this.look(false) });
        make("button", bar, { textContent: "Turntable", onclick: () => this.look(true) });
      }
      if (this.data.numFrames > 1) {
        this.button = make("button", bar, { textContent: "Play", onclick: () => this.play() });
        this.slider = make("input", bar, { type: "range", min: 0, max: this.data.numFrames - 1, value: 0 });
        this.slider.oninput = () => { if (this.isPlaying) this.play(); this.seek(+this.slider.value); };
        this.label = make("span", bar);
      }
      if (this.data.people.length > 1 || this.data.numFrames > 1)
        for (const p of this.people) {
          const chip = make("label", bar);
          const box = make("input", chip, { type: "checkbox", checked: true });
          box.onchange = () => { p.isShown = box.checked; this.draw(); };
          const dot = make("i", chip);
          dot.style.background = `rgb(${p.color.map((c) => Math.round(255 * c))})`;
          make("span", chip, { textContent: p.name });
        }
    }

    measure() { // the middle and the size of everybody, for the turntable
      const low = [Infinity, Infinity, Infinity], high = [-Infinity, -Infinity, -Infinity];
      const steps = Math.min(this.data.numFrames, 12);
      for (let s = 0; s < steps; s++) {
        const frame = Math.floor((s * this.data.numFrames) / steps);
        for (const p of this.people) {
          if (p.seen && !p.seen[frame]) continue;
          pose(p, frame);
          for (let i = 0; i < p.positions.length; i++) {
            low[i % 3] = Math.min(low[i % 3], p.positions[i]);
            high[i % 3] = Math.max(high[i % 3], p.positions[i]);
          }
        }
      }
      this.hasPeople = low[0] < Infinity;
      this.middle = low.map((v, i) => (v + high[i]) / 2);
      this.radius = this.hasPeople ? Math.hypot(...low.map((v, i) => high[i] - v)) / 2 : 1;
      this.show(this.frame);
    }

    start() {
      if (this.gl) return;
      const canvas = this.stage.appendChild(document.createElement("canvas"));
      this.canvas = canvas;
      const gl = (this.gl = canvas.getContext("webgl", { antialias: true, alpha: true, preserveDrawingBuffer: true }));
      if (!gl) { this.stage.append("This browser has no WebGL."); return; }
      if (this.isWide) gl.getExtension("OES_element_index_uint");
      this.program = gl.createProgram();
      for (const [kind, code] of [[gl.VERTEX_SHADER, VERTEX], [gl.FRAGMENT_SHADER, FRAGMENT]]) {
        const shader = gl.createShader(kind);
        gl.shaderSource(shader, code); gl.compileShader(shader); gl.attachShader(this.program, shader);
      }
      gl.linkProgram(this.program); gl.useProgram(this.program);
      gl.enable(gl.DEPTH_TEST);
      gl.bindBuffer(gl.ELEMENT_ARRAY_BUFFER, gl.createBuffer());
      gl.bufferData(gl.ELEMENT_ARRAY_BUFFER, this.faces, gl.STATIC_DRAW);
      this.buffers = { position: gl.createBuffer(), normal: gl.createBuffer() };
      this.pointer();
      this.resized = new ResizeObserver(() => this.draw());
      this.resized.observe(canvas);
      this.draw();
      this.tick();
      this.root.dataset.ready = "true";
    }

    stop() {
      if (!this.gl) return;
      this.resized.disconnect();
      this.gl.getExtension("WEBGL_lose_context")?.loseContext();
      this.canvas.remove();
      this.gl = null;
    }

    pointer() {
      const canvas = this.canvas;
      canvas.onpointerdown = (e) => { canvas.setPointerCapture(e.pointerId); this.isTurning = false; this.isHeld = true; };
      canvas.onpointerup = () => { this.isHeld = false; };
      canvas.onpointermove = (e) => {
        if (!this.isHeld) return;
        if (!this.isOrbit) this.look(true, false);
        this.yaw -= e.movementX / 150;
        this.pitch = Math.max(-1.5, Math.min(1.5, this.pitch + e.movementY / 150));
        this.draw();
      };
      canvas.addEventListener("wheel", (e) => {
        if (!this.isOrbit) return;
        e.preventDefault(); this.zoom *= Math.exp(-e.deltaY / 800); this.draw();
      }, { passive: false });
    }

    look(isOrbit, isTurning = isOrbit) {
      if (isOrbit && !this.isOrbit) this.yaw = this.pitch = 0;
      this.isOrbit = isOrbit; this.isTurning = isTurning;
      this.draw();
    }

    play() {
      this.isPlaying = !this.isPlaying;
      this.button.textContent = this.isPlaying ? "Pause" : "Play";
      if (this.video) { if (this.isPlaying) this.video.play(); else this.video.pause(); }
      this.begun = performance.now() - (1000 * this.frame) / this.data.fps;
    }

    seek(frame) {
      if (this.video) this.video.currentTime = (frame + 0.5) / this.data.fps;
      this.show(frame); this.draw();
    }

    show(frame) {
      this.frame = Math.max(0, Math.min(this.data.numFrames - 1, frame));
      for (const p of this.people) {
        p.isThere = !p.seen || p.seen[this.frame] > 0;
        if (p.isThere) { pose(p, this.frame); smooth(p, this.faces); }
      }
      if (!this.slider) return;
      this.slider.value = this.frame;
      this.label.textContent = `${(this.frame / this.data.fps).toFixed(2)} s`;
    }

    tick(now = performance.now()) {
      if (!this.gl) return;
      if (this.isTurning) this.yaw += Math.min(now - (this.last || now), 100) / 2500;
      this.last = now;
      if (this.isPlaying) {
        const time = this.video ? this.video.currentTime : (now - this.begun) / 1000;
        const frame = Math.floor(time * this.data.fps) % this.data.numFrames;
        if (frame !== this.frame) this.show(frame);
      }
      if (this.isTurning || this.isPlaying) this.draw();
      requestAnimationFrame((time) => this.tick(time));
    }

    // Rotation and shift of the view, then the projection, as rows of one 4 x 4 matrix.
    matrices(aspect) {
      const camera = this.data.camera;
      let turn = [1, 0, 0, 0, 1, 0, 0, 0, 1], shift = [0, 0, 0], sx, sy, ox = 0, oy = 0;
      if (this.isOrbit) {
        const [cy, sy_, cp, sp] = [Math.cos(this.yaw), Math.sin(this.yaw), Math.cos(this.pitch), Math.sin(this.pitch)];
        turn = [cy, 0, sy_, sp * sy_, cp, -sp * cy, -cp * sy_, sp, cp * cy];
        const focal = 2.2;
        shift = [0, 1, 2].map((r) => -turn[3 * r] * this.middle[0] - turn[3 * r + 1] * this.middle[1] - turn[3 * r + 2] * this.middle[2]);
        shift[2] += (focal * this.radius * 1.08) / this.zoom;
        sx = focal / Math.max(aspect, 1); sy = sx * aspect;
      } else {
        sx = (2 * camera.fx) / camera.width; sy = (2 * camera.fy) / camera.height;
        ox = (2 * (camera.cx + 0.5)) / camera.width - 1; oy = (2 * (camera.cy + 0.5)) / camera.height - 1;
      }
      const depth = turn[6] * this.middle[0] + turn[7] * this.middle[1] + turn[8] * this.middle[2] + shift[2];
      const far = depth + 1.2 * this.radius, near = Math.max(depth - 1.2 * this.radius, far / 1000);
      const a = (far + near) / (far - near), b = (-2 * far * near) / (far - near);
      const [x, y, z] = [0, 1, 2].map((r) => [...turn.slice(3 * r, 3 * r + 3), shift[r]]);
      const rows = [x.map((v, i) => sx * v + ox * z[i]), y.map((v, i) => -(sy * v + oy * z[i])), z.map((v, i) => a * v + (i === 3 ? b : 0)), z];
      const columns = new Float32Array(16), turned = new Float32Array(9);
      for (let r = 0; r < 4; r++) for (let c = 0; c < 4; c++) columns[4 * c + r] = rows[r][c];
      for (let r = 0; r < 3; r++) for (let c = 0; c < 3; c++) turned[3 * c + r] = turn[3 * r + c];
      return [columns, turned];
    }

    draw() {
      const gl = this.gl;
      if (!gl) return;
      if (this.behind) this.behind.style.visibility = this.isOrbit ? "hidden" : "visible";
      const ratio = window.devicePixelRatio || 1;
      const size = [this.canvas.clientWidth * ratio, this.canvas.clientHeight * ratio].map(Math.round);
      if (this.canvas.width !== size[0] || this.canvas.height !== size[1]) [this.canvas.width, this.canvas.height] = size;
      gl.viewport(0, 0, ...size);
      gl.clearColor(0, 0, 0, 0);
      gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
      if (!this.hasPeople) return;
      const at = (name) => gl.getUniformLocation(this.program, name);
      const [clip, turn] = this.matrices(size[0] / size[1]);
      gl.uniformMatrix4fv(at("clip"), false, clip);
      gl.uniformMatrix3fv(at("turn"), false, turn);
      for (const p of this.people) {
        if (!p.isShown || !p.isThere) continue;
        for (const [name, values] of [["position", p.positions], ["normal", p.normals]]) {
          const place = gl.getAttribLocation(this.program, name);
          gl.bindBuffer(gl.ARRAY_BUFFER, this.buffers[name]);
          gl.bufferData(gl.ARRAY_BUFFER, values, gl.DYNAMIC_DRAW);
          gl.enableVertexAttribArray(place);
          gl.vertexAttribPointer(place, 3, gl.FLOAT, false, 0, 0);
        }
        gl.uniform3fv(at("color"), p.color);
        gl.drawElements(gl.TRIANGLES, this.faces.length, this.isWide ? gl.UNSIGNED_INT : gl.UNSIGNED_SHORT, 0);
      }
    }
  }

  window.hmrkitViewers = [...document.querySelectorAll(".hmr-viewer")].map((root) => new Viewer(root));
  // viewer.html#turntable and #frame=12 open there; yaw in degrees: #yaw=90
  const wanted = new URLSearchParams(location.hash.slice(1));
  for (const viewer of window.hmrkitViewers) {
    if (wanted.has("turntable") && viewer.data.camera) viewer.look(true);
    if (wanted.has("yaw")) { viewer.look(true, false); viewer.yaw = (wanted.get("yaw") * Math.PI) / 180; }
    if (wanted.has("frame")) viewer.seek(+wanted.get("frame"));
  }
})();
