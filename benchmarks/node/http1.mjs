// HTTP/1.1 as clients of AWS speak it, over TCP or TLS, at half of the processor time of node:http: what stands in for a
// cloud should not compete with what is measured. One request at a time on a connection, bodies with Content-Length.

import net from "node:net";
import tls from "node:tls";

const HEAD_END = Buffer.from("\r\n\r\n");
const REASONS = { 200: "OK", 400: "Bad Request", 404: "Not Found", 411: "Length Required", 500: "Server Error" };
const CONTINUE = "HTTP/1.1 100 Continue\r\n\r\n";
const MOST_HEAD_BYTES = 64 * 1024;

let date = new Date().toUTCString();
setInterval(() => (date = new Date().toUTCString()), 500).unref();

// The listener gets {path, headers (names in lower case), body (text), isTls, whenGone(action)} and respond(answer),
// with {status, headers, text}. Returns a promise of the port.
export function serve(listener, { host, secure }) {
  const accept = (socket) => new Connection(socket, listener, Boolean(secure));
  const server = secure ? tls.createServer(secure, accept) : net.createServer({ noDelay: true }, accept);
  return new Promise((resolve) => server.listen({ port: 0, host, backlog: 1024 }, () => resolve(server.address().port)));
}

class Connection {
  #socket;
  #listener;
  #isTls;
  #parts = []; // read and not yet understood
  #size = 0;
  #needed = 0; // bytes of a request whose head was read
  #isBusy = false;
  #leave = null; // what to do when the client goes before its answer

  constructor(socket, listener, isTls) {
    this.#socket = socket;
    this.#listener = listener;
    this.#isTls = isTls;
    socket.setNoDelay(true);
    socket.on("data", (part) => {
      this.#parts.push(part);
      this.#size += part.length;
      if (!this.#isBusy && this.#size >= this.#needed) this.#read();
    });
    socket.on("error", () => socket.destroy());
    socket.on("close", () => this.#leave?.());
  }

  #read() {
    const data = this.#parts.length === 1 ? this.#parts[0] : Buffer.concat(this.#parts);
    this.#parts = data.length ? [data] : [];
    this.#needed = 0;
    const at = data.indexOf(HEAD_END);
    if (at < 0) {
      if (data.length > MOST_HEAD_BYTES) this.#socket.destroy();
      return;
    }
    const [first, ...lines] = data.latin1Slice(0, at).split("\r\n");
    const headers = {};
    for (const line of lines) {
      const colon = line.indexOf(":");
      headers[line.slice(0, colon).toLowerCase()] = line.slice(colon + 1).trim();
    }
    const start = at + HEAD_END.length;
    if (headers["transfer-encoding"]) {
      this.#respond({ status: 411, headers: {}, text: "" }, true);
      return;
    }
    this.#needed = start + Number(headers["content-length"] ?? 0);
    if (headers.expect && data.length === start) this.#socket.write(CONTINUE);
    if (data.length < this.#needed) return;
    const body = data.utf8Slice(start, this.#needed);
    this.#parts = data.length > this.#needed ? [data.subarray(this.#needed)] : [];
    this.#size = data.length - this.#needed;
    this.#needed = 0;
    this.#isBusy = true;
    const isLast = headers.connection?.toLowerCase() === "close";
    const request = { path: first.split(" ")[1], headers, body, isTls: this.#isTls };
    request.whenGone = (action) => (this.#leave = action);
    this.#listener(request, (answer) => this.#respond(answer, isLast));
  }

  #respond({ status, headers, text }, isLast) {
    this.#leave = null;
    this.#isBusy = false;
    if (!this.#socket.writable) return;
    let head = `HTTP/1.1 ${status} ${REASONS[status]}\r\n`;
    for (const name in headers) head += `${name}: ${headers[name]}\r\n`;
    head += `Content-Length: ${Buffer.byteLength(text)}\r\nDate: ${date}\r\n`;
    head += isLast ? "Connection: close\r\n\r\n" : "Connection: keep-alive\r\n\r\n";
    this.#socket.write(head + text);
    if (isLast) this.#socket.end();
    else if (this.#size) this.#read();
  }
}
