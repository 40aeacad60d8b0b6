// The stand-in for AWS: SQS and SNS in memory, late by a settable time, counting requests. One process, no dependency.
//
// node standin.mjs [--cert FILE --key FILE] prints a JSON line with its addresses on 127.0.0.1:
//   url: late and counted; tls_url: the same over TLS; side_url: neither late nor counted, for what is not measured.
// POST /__standin__ with {"reset": true, "latency_ms": 10, "fill": {"queue", "count", "id"}}, each optional, answers with
// what was counted before: requests and messages by action, polls by queue, this process's processor time.

import { randomUUID } from "node:crypto";
import { readFileSync } from "node:fs";
import { parseArgs } from "node:util";
import { serve } from "./http1.mjs";
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

async function answerSqs({ headers: sent, body, isTls, whenGone }, isCounted) {
  const action = sent["x-amz-target"].slice("AmazonSQS.".length);
  const id = randomUUID();
  const headers = { "x-amzn-RequestId": id, "Content-Type": JSON_TYPE };
  try {
    const params = JSON.parse(body);
    if (isCounted) {
      count(action, params.Entries?.length ?? 1);
      if (action === "ReceiveMessage") countPoll(params.QueueUrl.slice(params.QueueUrl.lastIndexOf("/") + 1));
    }
    const found = await sqs.call(action, params, `${isTls ? "https" : "http"}://${sent.host}`, whenGone);
    return { status: 200, headers, text: typeof found === "string" ? found : JSON.stringify(found) };
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
  return (request, respond) => {
    if (request.path === CONTROL) respond(answerControl(request.body));
    else if (isMeasured) there.call(() => answer(request, true, (found) => back.call(() => respond(found))));
    else answer(request, false, respond);
  };
}

function answerControl(body) {
  const headers = { "Content-Type": "application/json" };
  try {
    return { status: 200, headers, text: JSON.stringify(control(body)) };
  } catch (error) {
    return { status: 400, headers, text: JSON.stringify({ error: String(error.message) }) };
  }
}

async function answer(request, isMeasured, respond) {
  let found;
  try {
    const isSqs = request.headers["x-amz-target"]?.startsWith("AmazonSQS.");
    found = isSqs ? await answerSqs(request, isMeasured) : answerSns(request.body, isMeasured);
  } catch (error) {
    console.error(error);
    found = { status: 500, headers: {}, text: String(error.message) };
  }
  respond(found);
}

async function listen(isMeasured, secure) {
  const port = await serve(listener(isMeasured), { host: HOST, secure });
  return `${secure ? "https" : "http"}://${HOST}:${port}`;
}

const { values: options } = parseArgs({ options: { cert: { type: "string" }, key: { type: "string" } } });
reset();
const addresses = { url: await listen(true), side_url: await listen(false) };
if (options.cert) {
  addresses.tls_url = await listen(true, { cert: readFileSync(options.cert), key: readFileSync(options.key) });
}
console.log(JSON.stringify(addresses));
