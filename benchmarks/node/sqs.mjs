// Standard queues in memory, by SQS's JSON protocol: what the peers of the benchmark use of it.
// Left out: FIFO, permissions and policies (kept, not enforced), MD5OfMessageAttributes, throttling.

import { hash, randomUUID } from "node:crypto";

export const REGION = "us-east-1";
export const ACCOUNT = "000000000000";
const DEFAULTS = {
  VisibilityTimeout: "30",
  DelaySeconds: "0",
  MaximumMessageSize: "1048576",
  MessageRetentionPeriod: "345600",
  ReceiveMessageWaitTimeSeconds: "0",
};
const MOST_BYTES = 1048576;
const SWEEP_MS = 20;
const HANDLE_LENGTH = 412; // as AWS's
const FILLER = "AQEB".repeat(HANDLE_LENGTH / 4);

export class SqsError extends Error {
  constructor(code, message, queryCode = code) {
    super(message);
    this.code = code;
    this.queryCode = queryCode;
  }
}

class Queue {
  ready = [];
  #first = 0; // of ready: those before were taken
  inFlight = new Map(); // by message id
  delayed = new Set();
  waiters = [];
  nextAt = Infinity; // no message becomes visible by itself before this

  constructor(name, attributes, tags, find) {
    this.name = name;
    this.arn = `arn:aws:sqs:${REGION}:${ACCOUNT}:${name}`;
    this.attributes = { ...DEFAULTS, ...attributes };
    this.tags = { ...tags };
    this.createdAt = this.changedAt = Math.floor(Date.now() / 1000);
    this.find = find; // another queue by its ARN
    this.set({});
  }

  set(attributes) {
    Object.assign(this.attributes, attributes);
    for (const [name, value] of Object.entries(this.attributes)) if (value === "") delete this.attributes[name];
    this.changedAt = Math.floor(Date.now() / 1000);
    this.redrive = this.attributes.RedrivePolicy ? JSON.parse(this.attributes.RedrivePolicy) : null;
    this.visibilityS = Number(this.attributes.VisibilityTimeout);
    this.delayS = Number(this.attributes.DelaySeconds);
    this.waitS = Number(this.attributes.ReceiveMessageWaitTimeSeconds);
  }

  get readyCount() {
    return this.ready.length - this.#first;
  }

  // Does not wake who waits: see wake().
  send(body, attributes, delayS = this.delayS) {
    const message = {
      id: randomUUID(),
      body,
      md5: hash("md5", body),
      attributes,
      names: attributes ? Object.keys(attributes) : [],
      json: "", // of what does not change from one receive to the next, made by the first
      attributesJson: "",
      sentAt: Date.now(),
      firstReceivedAt: 0,
      receives: 0,
      visibleAt: 0,
    };
    if (delayS > 0) {
      this.#hide(message, this.delayed, delayS);
    } else {
      this.ready.push(message);
    }
    return message;
  }

  #hide(message, where, seconds) {
    message.visibleAt = Date.now() + seconds * 1000;
    this.nextAt = Math.min(this.nextAt, message.visibleAt);
    if (where === this.inFlight) where.set(message.id, message);
    else where.add(message);
  }

  take(most, visibilityS) {
    const taken = [];
    while (taken.length < most && this.#first < this.ready.length) {
      const message = this.ready[this.#first];
      this.ready[this.#first++] = undefined;
      const { maxReceiveCount, deadLetterTargetArn } = this.redrive ?? {};
      const dead = maxReceiveCount && message.receives >= maxReceiveCount ? this.find(deadLetterTargetArn) : null;
      if (dead) {
        dead.ready.push(message);
        dead.wake();
        continue;
      }
      message.receives += 1;
      message.firstReceivedAt ||= Date.now();
      if (visibilityS > 0) this.#hide(message, this.inFlight, visibilityS);
      else this.ready.push(message);
      taken.push(message);
    }
    if (this.#first === this.ready.length) {
      this.ready = [];
      this.#first = 0;
    } else if (this.#first > 4096 && this.#first * 2 > this.ready.length) {
      this.ready = this.ready.slice(this.#first);
      this.#first = 0;
    }
    return taken;
  }

  // Give what is there to the long polls that wait.
  wake() {
    while (this.waiters.length && this.readyCount) {
      const waiter = this.waiters.shift();
      clearTimeout(waiter.timer);
      waiter.give(this.take(waiter.most, waiter.visibilityS));
    }
  }

  async receive(most, waitS, visibilityS, whenGone) {
    const taken = this.take(most, visibilityS);
    if (taken.length || !waitS) return taken;
    return new Promise((resolve) => {
      const waiter = { most, visibilityS, give: resolve };
      const leave = () => {
        clearTimeout(waiter.timer);
        this.waiters = this.waiters.filter((other) => other !== waiter);
        resolve([]);
      };
      waiter.timer = setTimeout(leave, waitS * 1000);
      whenGone(leave);
      this.waiters.push(waiter);
    });
  }

  // An old handle still deletes, as on AWS mostly.
  delete(handle) {
    const id = idOf(handle);
    if (this.inFlight.delete(id)) return;
    const at = this.ready.findIndex((message) => message?.id === id);
    if (at >= 0) this.ready.splice(at, 1);
  }

  changeVisibility(handle, seconds) {
    const message = this.inFlight.get(idOf(handle));
    if (!message) throw new SqsError("MessageNotInflight", "The message is not in flight.");
    this.inFlight.delete(message.id);
    if (seconds > 0) {
      this.#hide(message, this.inFlight, seconds);
    } else {
      this.ready.push(message);
      this.wake();
    }
  }

  // Messages whose delay or visibility timeout is over.
  sweep(now) {
    if (this.nextAt > now) return;
    this.nextAt = Infinity;
    for (const place of [this.delayed, this.inFlight]) {
      for (const message of place.values()) {
        if (message.visibleAt > now) {
          this.nextAt = Math.min(this.nextAt, message.visibleAt);
        } else {
          place.delete(place === this.delayed ? message : message.id);
          this.ready.push(message);
        }
      }
    }
    this.wake();
  }

  purge() {
    this.ready = [];
    this.#first = 0;
    this.inFlight.clear();
    this.delayed.clear();
  }

  described() {
    return {
      ...this.attributes,
      QueueArn: this.arn,
      ApproximateNumberOfMessages: String(this.readyCount),
      ApproximateNumberOfMessagesNotVisible: String(this.inFlight.size),
      ApproximateNumberOfMessagesDelayed: String(this.delayed.size),
      CreatedTimestamp: String(this.createdAt),
      LastModifiedTimestamp: String(this.changedAt),
    };
  }
}

const handleOf = (message) => (message.id + "." + message.receives).padEnd(HANDLE_LENGTH, FILLER);

function idOf(handle) {
  if (typeof handle !== "string" || handle[36] !== ".") {
    throw new SqsError("ReceiptHandleIsInvalid", `The input receipt handle "${handle}" is not a valid receipt handle.`);
  }
  return handle.slice(0, 36);
}

// Whether an attribute is among those asked for: "All", ".*", a name, or a prefix with ".*".
function chooser(asked) {
  if (!asked?.length) return null;
  if (asked.includes("All") || asked.includes(".*")) return () => true;
  const prefixes = asked.filter((name) => name.endsWith(".*")).map((name) => name.slice(0, -2));
  const names = new Set(asked);
  return (name) => names.has(name) || prefixes.some((prefix) => name.startsWith(prefix));
}

const SYSTEM = ["SenderId", "SentTimestamp", "ApproximateReceiveCount", "ApproximateFirstReceiveTimestamp"];

function system(message, names) {
  const all = [ACCOUNT, message.sentAt, message.receives, message.firstReceivedAt];
  return names.map((name) => `"${name}":"${all[SYSTEM.indexOf(name)]}"`).join();
}

// JSON of a message as received.
function shown(message, isWanted, systemNames) {
  message.json ||= `"MessageId":"${message.id}","MD5OfBody":"${message.md5}","Body":${JSON.stringify(message.body)}`;
  let text = `{${message.json},"ReceiptHandle":"${handleOf(message)}"`;
  if (systemNames.length) text += `,"Attributes":{${system(message, systemNames)}}`;
  const names = isWanted ? message.names.filter(isWanted) : [];
  if (names.length && names.length === message.names.length) {
    message.attributesJson ||= JSON.stringify(message.attributes);
    text += `,"MessageAttributes":${message.attributesJson}`;
  } else if (names.length) {
    const some = Object.fromEntries(names.map((name) => [name, message.attributes[name]]));
    text += `,"MessageAttributes":${JSON.stringify(some)}`;
  }
  return `${text}}`;
}

export class Sqs {
  #queues = new Map(); // by name

  constructor() {
    setInterval(() => {
      const now = Date.now();
      for (const queue of this.#queues.values()) queue.sweep(now);
    }, SWEEP_MS).unref();
  }

  // {"QueueUrl": ...} or a name to a queue.
  find(urlOrName) {
    const queue = this.#queues.get(String(urlOrName).slice(String(urlOrName).lastIndexOf("/") + 1));
    if (!queue) {
      throw new SqsError("QueueDoesNotExist", "The specified queue does not exist.", "NonExistentQueue");
    }
    return queue;
  }

  byArn(arn) {
    return this.#queues.get(arn.slice(arn.lastIndexOf(":") + 1));
  }

  // The one message in a queue becomes *count*, with task ids of their own; its body may be in Base64.
  fill(name, count, id) {
    const queue = this.find(name);
    const [first] = queue.take(1, 1);
    if (!first) throw new SqsError("Empty", `nothing to copy in ${name}`);
    queue.purge();
    const isEncoded = !first.body.includes(id);
    const text = isEncoded ? Buffer.from(first.body, "base64").toString() : first.body;
    if (!text.includes(id)) throw new SqsError("Empty", `no task id in the message of ${name}`);
    for (let number = 0; number < count; number++) {
      const copy = text.replaceAll(id, randomUUID());
      queue.send(isEncoded ? Buffer.from(copy).toString("base64") : copy, first.attributes, 0);
    }
    queue.wake();
  }

  // Returns the answer, an object or JSON, or a promise of it. origin: "http://host:port", as the client wrote it.
  call(action, p, origin, whenGone) {
    const run = this[`do${action}`];
    if (!run) throw new SqsError("InvalidAction", `The action ${action} is not valid for this endpoint.`);
    return run.call(this, p, origin, whenGone);
  }

  #url = (queue, origin) => `${origin}/${ACCOUNT}/${queue.name}`;

  doCreateQueue(p, origin) {
    const known = this.#queues.get(p.QueueName);
    if (known) {
      const differs = ([name, value]) => known.attributes[name] !== undefined && known.attributes[name] !== value;
      if (Object.entries(p.Attributes ?? {}).some(differs)) {
        throw new SqsError("QueueNameExists", "A queue of this name has other attributes.", "QueueAlreadyExists");
      }
      return { QueueUrl: this.#url(known, origin) };
    }
    if (!/^[A-Za-z0-9_-]{1,80}$/.test(p.QueueName)) throw new SqsError("InvalidParameterValue", "Invalid queue name.");
    const queue = new Queue(p.QueueName, p.Attributes ?? {}, p.tags ?? {}, (arn) => this.byArn(arn));
    this.#queues.set(queue.name, queue);
    return { QueueUrl: this.#url(queue, origin) };
  }

  doDeleteQueue(p) {
    const queue = this.find(p.QueueUrl);
    this.#queues.delete(queue.name);
    for (const waiter of queue.waiters.splice(0)) {
      clearTimeout(waiter.timer);
      waiter.give([]);
    }
    return {};
  }

  doGetQueueUrl(p, origin) {
    return { QueueUrl: this.#url(this.find(p.QueueName), origin) };
  }

  doListQueues(p, origin) {
    const names = [...this.#queues.keys()].filter((name) => name.startsWith(p.QueueNamePrefix ?? "")).sort();
    const start = p.NextToken ? Number(p.NextToken) : 0;
    const end = start + (p.MaxResults ?? 1000);
    const answer = { QueueUrls: names.slice(start, end).map((name) => `${origin}/${ACCOUNT}/${name}`) };
    if (p.MaxResults && end < names.length) answer.NextToken = String(end);
    return answer;
  }

  doGetQueueAttributes(p) {
    const all = this.find(p.QueueUrl).described();
    const isWanted = chooser(p.AttributeNames) ?? (() => false);
    return { Attributes: Object.fromEntries(Object.entries(all).filter(([name]) => isWanted(name))) };
  }

  doSetQueueAttributes(p) {
    this.find(p.QueueUrl).set(p.Attributes);
    return {};
  }

  doPurgeQueue(p) {
    this.find(p.QueueUrl).purge();
    return {};
  }

  doTagQueue(p) {
    Object.assign(this.find(p.QueueUrl).tags, p.Tags);
    return {};
  }

  doUntagQueue(p) {
    const { tags } = this.find(p.QueueUrl);
    for (const key of p.TagKeys) delete tags[key];
    return {};
  }

  doListQueueTags(p) {
    const { tags } = this.find(p.QueueUrl);
    return Object.keys(tags).length ? { Tags: tags } : {};
  }

  doSendMessage(p) {
    const queue = this.find(p.QueueUrl);
    if (!p.MessageBody) throw new SqsError("MissingParameter", "The request must contain the parameter MessageBody.");
    if (p.MessageBody.length > MOST_BYTES) throw new SqsError("InvalidParameterValue", "Message too long.");
    const message = queue.send(p.MessageBody, p.MessageAttributes, p.DelaySeconds);
    queue.wake();
    return { MessageId: message.id, MD5OfMessageBody: message.md5 };
  }

  doSendMessageBatch(p) {
    const queue = this.find(p.QueueUrl);
    checkBatch(p.Entries);
    if (p.Entries.reduce((sum, entry) => sum + entry.MessageBody.length, 0) > MOST_BYTES) {
      throw new SqsError("BatchRequestTooLong", "The batch is too long.");
    }
    const Successful = p.Entries.map((entry) => {
      const message = queue.send(entry.MessageBody, entry.MessageAttributes, entry.DelaySeconds);
      return { Id: entry.Id, MessageId: message.id, MD5OfMessageBody: message.md5 };
    });
    queue.wake();
    return { Successful };
  }

  doReceiveMessage(p, origin, whenGone) {
    const queue = this.find(p.QueueUrl);
    const isWanted = chooser(p.MessageAttributeNames);
    const isSystemWanted = chooser([...(p.AttributeNames ?? []), ...(p.MessageSystemAttributeNames ?? [])]);
    const systemNames = isSystemWanted ? SYSTEM.filter(isSystemWanted) : [];
    const answer = (messages) =>
      messages.length
        ? `{"Messages":[${messages.map((message) => shown(message, isWanted, systemNames)).join()}]}`
        : "{}";
    const most = p.MaxNumberOfMessages ?? 1;
    if (most < 1 || most > 10) throw new SqsError("InvalidParameterValue", "MaxNumberOfMessages is 1 to 10.");
    return queue
      .receive(most, p.WaitTimeSeconds ?? queue.waitS, p.VisibilityTimeout ?? queue.visibilityS, whenGone)
      .then(answer);
  }

  doDeleteMessage(p) {
    this.find(p.QueueUrl).delete(p.ReceiptHandle);
    return {};
  }

  doDeleteMessageBatch(p) {
    const queue = this.find(p.QueueUrl);
    return each(p.Entries, (entry) => queue.delete(entry.ReceiptHandle));
  }

  doChangeMessageVisibility(p) {
    this.find(p.QueueUrl).changeVisibility(p.ReceiptHandle, p.VisibilityTimeout);
    return {};
  }

  doChangeMessageVisibilityBatch(p) {
    const queue = this.find(p.QueueUrl);
    return each(p.Entries, (entry) => queue.changeVisibility(entry.ReceiptHandle, entry.VisibilityTimeout));
  }
}

export function checkBatch(entries) {
  if (!entries?.length) throw new SqsError("EmptyBatchRequest", "There is no entry in the batch.");
  if (entries.length > 10) throw new SqsError("TooManyEntriesInBatchRequest", "At most 10 entries in a batch.");
  if (new Set(entries.map((entry) => entry.Id)).size < entries.length) {
    throw new SqsError("BatchEntryIdsNotDistinct", "Two entries of the batch have the same Id.");
  }
}

function each(entries, action) {
  checkBatch(entries);
  const answer = { Successful: [] };
  for (const entry of entries) {
    try {
      action(entry);
      answer.Successful.push({ Id: entry.Id });
    } catch (error) {
      if (!(error instanceof SqsError)) throw error;
      (answer.Failed ??= []).push({ Id: entry.Id, Code: error.code, Message: error.message, SenderFault: true });
    }
  }
  return answer;
}
