// A TCP relay that delivers every byte later, in order: Redis and RabbitMQ at the distance of AWS.
// node relay.mjs DELAY_MS PORT...: one new port on 127.0.0.1 for each, printed as a JSON list. Half of the delay is
// spent in each direction, as in the stand-in.

import net from "node:net";
import { Later } from "./later.mjs";

const HOST = "127.0.0.1";
const [delayMs, ...ports] = process.argv.slice(2).map(Number);

function pass(from, to) {
  const later = new Later(delayMs / 2);
  from.on("data", (data) => later.call(() => to.writable && to.write(data)));
  from.on("end", () => later.call(() => to.end()));
  from.on("error", () => later.call(() => to.destroy()));
  from.on("close", () => later.call(() => to.destroySoon()));
}

function relay(port) {
  const server = net.createServer({ noDelay: true }, (client) => {
    const upstream = net.connect({ port, host: HOST, noDelay: true });
    pass(client, upstream);
    pass(upstream, client);
  });
  return new Promise((resolve) => server.listen(0, HOST, () => resolve(server.address().port)));
}

console.log(JSON.stringify(await Promise.all(ports.map(relay))));
