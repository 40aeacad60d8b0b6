// Calls that are due a fixed time after they were asked for, in order, with one timer: latency for requests and bytes.

const TOLERANCE_MS = 0.5; // Node's timers count in milliseconds: what is due within half of one is not left for the next

export class Later {
  #waiting = [];
  #first = 0;

  // delayMs may change while calls wait: those keep their time, later ones do not overtake them.
  constructor(delayMs) {
    this.delayMs = delayMs;
  }

  call(action) {
    if (this.delayMs === 0 && this.#first === this.#waiting.length) {
      action();
      return;
    }
    this.#waiting.push({ dueAt: performance.now() + this.delayMs, action });
    if (this.#waiting.length - this.#first === 1) this.#arm();
  }

  #arm() {
    const remainingMs = this.#waiting[this.#first].dueAt - performance.now();
    setTimeout(() => this.#run(), Math.max(1, Math.round(remainingMs)));
  }

  #run() {
    const until = performance.now() + TOLERANCE_MS;
    while (this.#first < this.#waiting.length && this.#waiting[this.#first].dueAt <= until) {
      const { action } = this.#waiting[this.#first];
      this.#waiting[this.#first++] = undefined;
      action();
    }
    if (this.#first === this.#waiting.length) {
      this.#waiting = [];
      this.#first = 0;
    } else {
      this.#arm();
    }
  }
}
