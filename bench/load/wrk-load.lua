-- The requests of a run, for wrk. Arguments: a file of bodies, each after its length and a newline; or "distinct" and a
-- prefix for new keys; then the content type; then a prefix for new idempotency keys, or nothing. The script prepares
-- as much as it can before the load starts, so that the generator costs little.

local threads = 0

function setup(thread)
  threads = threads + 1
  thread:set("number", threads)
end

local function read_bodies(path)
  local file = assert(io.open(path, "rb"))
  local bodies = {}
  local length = file:read("*n")
  while length do
    file:read(1)
    bodies[#bodies + 1] = file:read(length) or ""
    length = file:read("*n")
  end
  file:close()
  return bodies
end

-- Requests with their own Idempotency-Key, made as by nthIdempotencyKey in workload.ts: whole requests, cut around a key of
-- zeros.
local NO_KEY = string.rep("0", 36)

local function idempotent(requests, prefix)
  local heads, tails = {}, {}
  for index, whole in ipairs(requests) do
    local first, last = string.find(whole, NO_KEY, 1, true)
    heads[index] = string.sub(whole, 1, first - 1)
    tails[index] = string.sub(whole, last + 1)
  end
  local format, count, n = string.format, #requests, 0
  local key = "%08x-" .. prefix .. ":" .. number .. ":%010d"
  return function()
    n = n + 1
    local index = n % count + 1
    return heads[index] .. format(key, n * 2654435761 % 4294967296, n) .. tails[index]
  end
end

function init(args)
  local source, detail = args[1], args[2]
  local headers = { ["Content-Type"] = args[3] }
  local key_prefix = args[4] ~= "" and args[4] or nil
  if key_prefix then headers["Idempotency-Key"] = NO_KEY end
  if source == "distinct" then
    assert(not key_prefix, "distinct keys carry no idempotency keys")
    local prefix = '{"' .. detail .. number .. ":"
    local rest = '": 1}'
    local sample = prefix .. string.rep("0", 10) .. rest
    local whole = wrk.format("POST", nil, headers, sample)
    local head = string.sub(whole, 1, #whole - #sample) .. prefix
    local n = 0
    request = function()
      n = n + 1
      return head .. string.format("%010d", n) .. rest
    end
    return
  end
  local requests = {}
  for index, body in ipairs(read_bodies(detail)) do
    requests[index] = wrk.format("POST", nil, headers, body)
  end
  if key_prefix then
    request = idempotent(requests, key_prefix)
    return
  end
  local count = #requests
  -- Threads start at different keys, so that they do not send the same keys at the same time.
  local at = math.floor((number - 1) * count / 4)
  request = function()
    at = at % count + 1
    return requests[at]
  end
end

function done(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format(
    'wrk-json {"requests":%d,"durationUs":%d,"refused":%d,"socketErrors":%d,' ..
    '"p50Us":%d,"p90Us":%d,"p99Us":%d,"p999Us":%d,"maxUs":%d}\n',
    summary.requests, summary.duration, errors.status,
    errors.connect + errors.read + errors.write + errors.timeout,
    latency:percentile(50), latency:percentile(90), latency:percentile(99), latency:percentile(99.9), latency.max))
end
