// The stand-in for AWS: SQS and SNS in memory, late by a settable time, counting requests. One process, no dependency.
//
// node standin.mjs [--cert FILE --key FILE] prints a JSON line with its addresses on 127.0.0.1:
//   url: late and counted; tls_url: the same over TLS; side_url: neither late nor counted, for what is not measured.
// POST /__standin__ with {"reset": true, "latency_ms": 10, "fill": {"queue", "count", "id"}}, each optional, answers with
// what was counted before: requests and messages by action, polls by queue, this process's processor time.

import { randomUUID } from "node:crypto";
import { readFileSync } from "node:fs";
import http from "node:http";
import https from "node:https";
import { parseArgs } from "node:util";
import { Later } from "./later.mjs";
import { SnsError, Sns, errorXml, parseQuery } from "./sns.mjs";
import { Sqs, SqsError } from "./sqs.mjs";

const HOST = "127.0.0.1";
const CONTROL = "/__standin__";
const JSON_TYPE = "application/x-amz-json-1.0";

const sqs = new Sqs();
const sns = new Sns(sqs);
const there = new Later(0);
const back = new Later(0);
let counts;

function reset() {
  counts = { requests: {}, messages: {}, polls: {}, startedAt: performance.now(), cpu: process.cpuUsage() };
}

function stats() {
  const { user, system } = process.cpuUsage(counts.cpu);
  const { requests, messages, polls } = counts;
  const seconds = (performance.now() - counts.startedAt) / 1000;
  return { requests, messages, polls, seconds, cpu_s: (user + system) / 1e6, latency_ms: there.delayMs * 2 };
}

function control(body) {
  const { reset: isReset, latency_ms: latencyMs, fill } = JSON.parse(body || "{}");
  if (latencyMs !== undefined) there.delayMs = back.delayMs = latencyMs / 2;
  if (fill) sqs.fill(fill.queue, fill.count, fill.id);
  const answer = stats();
  if (isReset) reset();
  return answer;
}

function count(action, messageCount) {
  counts.requests[action] = (counts.requests[action] ?? 0) + 1;
  counts.messages[action] = (counts.messages[action] ?? 0) + messageCount;
}

function countPoll(queue) {
  const now = performance.now() / 1000;
  const poll = (counts.polls[queue] ??= { count: 0, first_s: now, last_s: now });
  poll.count += 1;
  poll.last_s = now;
}

async function answerSqs(request, body, isCounted, whenGone) {
  const action = request.headers["x-amz-target"].slice("AmazonSQS.".length);
  const id = randomUUID();
  const headers = { "x-amzn-RequestId": id, "Content-Type": JSON_TYPE };
  try {
    const params = JSON.parse(body);
    if (isCounted) {
      count(action, params.Entries?.length ?? 1);
      if (action === "ReceiveMessage") countPoll(params.QueueUrl.slice(params.QueueUrl.lastIndexOf("/") + 1));
    }
    const origin = `${request.socket.encrypted ? "https" : "http"}://${request.headers.host}`;
    const answer = await sqs.call(action, params, origin, whenGone);
    return { status: 200, headers, text: JSON.stringify(answer) };
  } catch (error) {
    if (!(error instanceof SqsError)) throw error;
    headers["x-amzn-query-error"] = `AWS.SimpleQueueService.${error.queryCode};Sender`;
    const text = JSON.stringify({ __type: `com.amazonaws.sqs#${error.code}`, message: error.message });
    return { status: 400, headers, text };
  }
}

function answerSns(body, isCounted) {
  const id = randomUUID();
  const headers = { "x-amzn-RequestId": id, "Content-Type": "text/xml" };
  const params = parseQuery(body);
  if (isCounted) count(params.Action, Object.keys(params.PublishBatchRequestEntries?.member ?? [1]).length);
  try {
    return { status: 200, headers, text: sns.call(params.Action, params, id) };
  } catch (error) {
    if (!(error instanceof SnsError || error instanceof SqsError)) throw error;
    return { status: error.status ?? 400, headers, text: errorXml(error, id) };
  }
}

function listener(isMeasured) {
  return (request, response) => {
    const parts = [];
    request.on("data", (part) => parts.push(part));
    request.on("end", () => {
      const body = parts.length === 1 ? parts[0].toString() : Buffer.concat(parts).toString();
      if (request.url === CONTROL) {
        let status = 200;
        let text;
        try {
          text = JSON.stringify(control(body));
        } catch (error) {
          [status, text] = [400, JSON.stringify({ error: String(error.message) })];
        }
        send(response, { status, headers: { "Content-Type": "application/json" }, text });
      } else if (isMeasured) {
        there.call(() => handle(request, response, body, true));
      } else {
        handle(request, response, body, false);
      }
    });
  };
}

async function handle(request, response, body, isMeasured) {
  const whenGone = (action) => response.on("close", () => response.writableFinished || action());
  let answer;
  try {
    const isSqs = request.headers["x-amz-target"]?.startsWith("AmazonSQS.");
    answer = isSqs ? await answerSqs(request, body, isMeasured, whenGone) : answerSns(body, isMeasured);
  } catch (error) {
    console.error(error);
    answer = { status: 500, headers: {}, text: String(error.message) };
  }
  if (isMeasured) back.call(() => send(response, answer));
  else send(response, answer);
}

function send(response, { status, headers, text }) {
  const data = Buffer.from(text);
  response.writeHead(status, { ...headers, "Content-Length": data.length });
  response.end(data);
}

function listen(server, scheme) {
  server.keepAliveTimeout = 0; // no connection is closed for being idle
  server.requestTimeout = 0;
  return new Promise((resolve) =>
    server.listen({ port: 0, host: HOST, backlog: 1024 }, () => resolve(`${scheme}://${HOST}:${server.address().port}`)),
  );
}

const { values: options } = parseArgs({ options: { cert: { type: "string" }, key: { type: "string" } } });
reset();
const addresses = {
  url: await listen(http.createServer({ noDelay: true }, listener(true)), "http"),
  side_url: await listen(http.createServer({ noDelay: true }, listener(false)), "http"),
};
if (options.cert) {
  const tls = { noDelay: true, cert: readFileSync(options.cert), key: readFileSync(options.key) };
  addresses.tls_url = await listen(https.createServer(tls, listener(true)), "https");
}
console.log(JSON.stringify(addresses));
