// Standard topics in memory, by SNS's query protocol, with subscriptions of queues; and STS's GetCallerIdentity.
// Left out: filters on the body, other protocols than sqs, permissions.

import { randomUUID } from "node:crypto";
import { ACCOUNT, REGION, checkBatch } from "./sqs.mjs";

const SNS_SPACE = "http://sns.amazonaws.com/doc/2010-03-31/";
const STS_SPACE = "https://sts.amazonaws.com/doc/2011-06-15/";

export class SnsError extends Error {
  constructor(code, message, status = 400) {
    super(message);
    this.code = code;
    this.status = status;
  }
}

const invalid = (message) => new SnsError("InvalidParameter", `Invalid parameter: ${message}`);

// "A.entry.1.Name=x" to {A: {entry: {1: {Name: "x"}}}}.
export function parseQuery(body) {
  const tree = Object.create(null);
  for (const [path, value] of new URLSearchParams(body)) {
    const parts = path.split(".");
    const last = parts.pop();
    let at = tree;
    for (const part of parts) at = at[part] ??= Object.create(null);
    at[last] = value;
  }
  return tree;
}

const list = (members) => Object.keys(members ?? {}).sort((a, b) => a - b).map((key) => members[key]);
const map = (entries) => Object.fromEntries(list(entries?.entry).map(({ key, value }) => [key, value]));

function messageAttributes(found) {
  const entries = list(found?.entry);
  if (!entries.length) return undefined;
  const plain = ({ Name, Value }) => [Name, { ...Value }];
  return Object.fromEntries(entries.map(plain));
}

const ESCAPES = { "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "\r": "&#xD;" };
const escaped = (text) => String(text).replace(/[&<>"\r]/g, (character) => ESCAPES[character]);
const element = (name, text) => `<${name}>${escaped(text)}</${name}>`;
const xmlMap = (name, values) => {
  const entry = ([key, value]) => `<entry>${element("key", key)}${element("value", value)}</entry>`;
  return `<${name}>${Object.entries(values).map(entry).join("")}</${name}>`;
};
const xmlList = (name, members) => `<${name}>${members.map((each) => `<member>${each}</member>`).join("")}</${name}>`;

export function errorXml(error, requestId) {
  const inner = element("Type", "Sender") + element("Code", error.code) + element("Message", error.message);
  return (
    `<ErrorResponse xmlns="${SNS_SPACE}"><Error>${inner}</Error>` +
    `${element("RequestId", requestId)}</ErrorResponse>`
  );
}

// ---- filters on attributes

function values(attribute) {
  if (!attribute) return null;
  if (attribute.DataType === "String.Array") return [].concat(JSON.parse(attribute.StringValue));
  return [attribute.DataType === "Number" ? Number(attribute.StringValue) : attribute.StringValue];
}

const wildcard = (pattern) =>
  new RegExp(`^${pattern.replace(/[.+?^${}()|[\]\\]/g, "\\$&").replaceAll("*", ".*")}$`, "s");
const COMPARE = { "=": (a, b) => a === b, ">": (a, b) => a > b, ">=": (a, b) => a >= b, "<": (a, b) => a < b };
COMPARE["<="] = (a, b) => a <= b;
const isText = (test) => (value) => typeof value === "string" && test(value);

// One condition of a policy to a test of one value.
function condition(rule) {
  if (rule === null || typeof rule !== "object") return (value) => value === rule;
  const [[operator, wanted]] = Object.entries(rule);
  switch (operator) {
    case "prefix":
      return isText((value) => value.startsWith(wanted));
    case "suffix":
      return isText((value) => value.endsWith(wanted));
    case "equals-ignore-case":
      return isText((value) => value.toLowerCase() === wanted.toLowerCase());
    case "wildcard": {
      const pattern = wildcard(wanted);
      return isText((value) => pattern.test(value));
    }
    case "numeric":
      return (value) => {
        if (typeof value !== "number") return false;
        for (let at = 0; at < wanted.length; at += 2) if (!COMPARE[wanted[at]](value, wanted[at + 1])) return false;
        return true;
      };
    case "anything-but": {
      const refused = [].concat(wanted).map(condition);
      return (value) => !refused.some((test) => test(value));
    }
    default:
      throw invalid(`FilterPolicy: ${operator} is not known here`);
  }
}

// A policy to a test of message attributes.
export function filter(policy) {
  const tests = Object.entries(policy).map(([name, rules]) => {
    if (name === "$or") {
      const members = rules.map(filter);
      return (attributes) => members.some((member) => member(attributes));
    }
    const mayBeAbsent = rules.some((rule) => rule?.exists === false);
    const mayBeAnything = rules.some((rule) => rule?.exists === true);
    const conditions = rules.filter((rule) => rule?.exists === undefined).map(condition);
    return (attributes) => {
      const found = values(attributes[name]);
      if (found === null) return mayBeAbsent;
      return mayBeAnything || conditions.some((test) => found.some(test));
    };
  });
  return (attributes) => tests.every((test) => test(attributes));
}

// ---- the service

const SUBSCRIPTION_DEFAULTS = { RawMessageDelivery: "false" };

export class Sns {
  #topics = new Map(); // by ARN
  #subscriptions = new Map(); // by ARN

  constructor(sqs) {
    this.sqs = sqs;
  }

  // Returns the XML of the answer.
  call(action, p, requestId) {
    const run = this[`do${action}`];
    if (!run) throw new SnsError("InvalidAction", `The action ${action} is not valid for this web service.`);
    const result = run.call(this, p) ?? "";
    const space = action === "GetCallerIdentity" ? STS_SPACE : SNS_SPACE;
    return (
      `<${action}Response xmlns="${space}"><${action}Result>${result}</${action}Result>` +
      `<ResponseMetadata><RequestId>${requestId}</RequestId></ResponseMetadata></${action}Response>`
    );
  }

  #topic(arn) {
    const topic = this.#topics.get(arn);
    if (!topic) throw new SnsError("NotFound", "Topic does not exist", 404);
    return topic;
  }

  #subscription(arn) {
    const subscription = this.#subscriptions.get(arn);
    if (!subscription) throw new SnsError("NotFound", "Subscription does not exist", 404);
    return subscription;
  }

  doGetCallerIdentity() {
    const arn = `arn:aws:iam::${ACCOUNT}:root`;
    return element("Arn", arn) + element("UserId", ACCOUNT) + element("Account", ACCOUNT);
  }

  doCreateTopic(p) {
    if (!/^[A-Za-z0-9_-]{1,256}$/.test(p.Name)) throw invalid("Topic Name");
    const arn = `arn:aws:sns:${REGION}:${ACCOUNT}:${p.Name}`;
    if (!this.#topics.has(arn)) {
      const tags = Object.fromEntries(list(p.Tags?.member).map(({ Key, Value }) => [Key, Value]));
      this.#topics.set(arn, { arn, attributes: map(p.Attributes), tags, subscriptions: [] });
    }
    return element("TopicArn", arn);
  }

  doDeleteTopic(p) {
    for (const { arn } of this.#topics.get(p.TopicArn)?.subscriptions ?? []) this.#subscriptions.delete(arn);
    this.#topics.delete(p.TopicArn);
  }

  #page(p, all, name, one) {
    const start = p.NextToken ? Number(p.NextToken) : 0;
    const more = start + 100 < all.length ? element("NextToken", start + 100) : "";
    return xmlList(name, all.slice(start, start + 100).map(one)) + more;
  }

  doListTopics(p) {
    return this.#page(p, [...this.#topics.keys()], "Topics", (arn) => element("TopicArn", arn));
  }

  doGetTopicAttributes(p) {
    const { arn, attributes, subscriptions } = this.#topic(p.TopicArn);
    const counts = { SubscriptionsConfirmed: subscriptions.length, SubscriptionsPending: 0, SubscriptionsDeleted: 0 };
    return xmlMap("Attributes", { TopicArn: arn, Owner: ACCOUNT, ...counts, ...attributes });
  }

  doSetTopicAttributes(p) {
    this.#topic(p.TopicArn).attributes[p.AttributeName] = p.AttributeValue ?? "";
  }

  doTagResource(p) {
    for (const { Key, Value } of list(p.Tags?.member)) this.#topic(p.ResourceArn).tags[Key] = Value;
  }

  doUntagResource(p) {
    for (const key of list(p.TagKeys?.member)) delete this.#topic(p.ResourceArn).tags[key];
  }

  doListTagsForResource(p) {
    const tags = Object.entries(this.#topic(p.ResourceArn).tags);
    return xmlList("Tags", tags.map(([key, value]) => element("Key", key) + element("Value", value)));
  }

  doSubscribe(p) {
    const topic = this.#topic(p.TopicArn);
    const given = map(p.Attributes);
    const attributes = { ...SUBSCRIPTION_DEFAULTS, ...given };
    if (p.Protocol !== "sqs") throw invalid("Protocol: only sqs is known here");
    const known = topic.subscriptions.find((each) => each.endpoint === p.Endpoint);
    if (known) {
      if (Object.entries(given).some(([name, value]) => known.attributes[name] !== value)) {
        throw invalid("Attributes Reason: Subscription already exists with different attributes");
      }
      return element("SubscriptionArn", known.arn);
    }
    const arn = `${topic.arn}:${randomUUID()}`;
    const subscription = { arn, topic, endpoint: p.Endpoint, attributes };
    this.#prepare(subscription);
    topic.subscriptions.push(subscription);
    this.#subscriptions.set(arn, subscription);
    return element("SubscriptionArn", arn);
  }

  #prepare(subscription) {
    const { attributes } = subscription;
    if (attributes.FilterPolicyScope === "MessageBody") throw invalid("FilterPolicyScope: only MessageAttributes here");
    const policy = attributes.FilterPolicy ? JSON.parse(attributes.FilterPolicy) : {};
    subscription.accepts = Object.keys(policy).length ? filter(policy) : () => true;
    subscription.isRaw = attributes.RawMessageDelivery === "true";
  }

  doUnsubscribe(p) {
    const subscription = this.#subscriptions.get(p.SubscriptionArn);
    if (!subscription) return;
    this.#subscriptions.delete(subscription.arn);
    const { topic } = subscription;
    topic.subscriptions = topic.subscriptions.filter((each) => each !== subscription);
  }

  #described = ({ arn, topic, endpoint }) =>
    element("SubscriptionArn", arn) +
    element("Owner", ACCOUNT) +
    element("Protocol", "sqs") +
    element("Endpoint", endpoint) +
    element("TopicArn", topic.arn);

  doListSubscriptions(p) {
    return this.#page(p, [...this.#subscriptions.values()], "Subscriptions", this.#described);
  }

  doListSubscriptionsByTopic(p) {
    return this.#page(p, this.#topic(p.TopicArn).subscriptions, "Subscriptions", this.#described);
  }

  doGetSubscriptionAttributes(p) {
    const { arn, topic, endpoint, attributes } = this.#subscription(p.SubscriptionArn);
    const scope = attributes.FilterPolicy ? { FilterPolicyScope: "MessageAttributes" } : {};
    const own = { SubscriptionArn: arn, TopicArn: topic.arn, Owner: ACCOUNT, Protocol: "sqs", Endpoint: endpoint };
    const state = { PendingConfirmation: "false", ConfirmationWasAuthenticated: "true" };
    return xmlMap("Attributes", { ...own, ...state, ...scope, ...attributes });
  }

  doSetSubscriptionAttributes(p) {
    const subscription = this.#subscription(p.SubscriptionArn);
    if (p.AttributeValue) subscription.attributes[p.AttributeName] = p.AttributeValue;
    else delete subscription.attributes[p.AttributeName];
    this.#prepare(subscription);
  }

  doPublish(p) {
    const queues = new Set();
    const id = this.#publish(this.#topic(p.TopicArn), p, queues);
    for (const queue of queues) queue.wake();
    return element("MessageId", id);
  }

  doPublishBatch(p) {
    const topic = this.#topic(p.TopicArn);
    const entries = list(p.PublishBatchRequestEntries?.member);
    checkBatch(entries);
    const queues = new Set();
    const done = entries.map((entry) => {
      const id = this.#publish(topic, entry, queues);
      return element("MessageId", id) + element("Id", entry.Id);
    });
    for (const queue of queues) queue.wake();
    return xmlList("Failed", []) + xmlList("Successful", done);
  }

  #publish(topic, { Message, Subject, MessageAttributes }, queues) {
    if (!Message) throw invalid("Empty message");
    const id = randomUUID();
    const attributes = messageAttributes(MessageAttributes);
    for (const { accepts, isRaw, endpoint } of topic.subscriptions) {
      const queue = accepts(attributes ?? {}) && this.sqs.byArn(endpoint);
      if (!queue) continue;
      if (isRaw) queue.send(Message, attributes);
      else queue.send(envelope(topic, id, Message, Subject, attributes));
      queues.add(queue);
    }
    return id;
  }
}

function envelope(topic, id, Message, Subject, attributes) {
  const flat = Object.entries(attributes ?? {}).map(([name, { DataType, StringValue, BinaryValue }]) => [
    name,
    { Type: DataType, Value: StringValue ?? BinaryValue },
  ]);
  const note = { Type: "Notification", MessageId: id, TopicArn: topic.arn, Subject, Message };
  const more = flat.length ? { MessageAttributes: Object.fromEntries(flat) } : {};
  return JSON.stringify({ ...note, Timestamp: new Date().toISOString(), ...more });
}
