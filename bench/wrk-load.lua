-- The requests of a run, for wrk. Arguments: a file of bodies, each behind its length and a newline; or, where the first
-- is "distinct", a prefix of keys that occur nowhere else; then the content type. Everything is made before the load
-- starts, so that the generator costs as little as it can.

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

function init(args)
  local source, detail = args[1], args[2]
  local headers = { ["Content-Type"] = args[3] }
  if source == "distinct" then
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
  local count = #requests
  -- Threads begin apart, so that they do not send the same keys at the same time.
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
