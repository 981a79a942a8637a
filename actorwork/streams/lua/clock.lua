-- The only clock that all nodes share. (A part: scripts begin with the parts they need.)

-- Milliseconds since the epoch, whole ones; and the rest of the time, less than one.
local function now_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000), time[2] % 1000 / 1000
end

local function whole(number)
  return string.format('%.0f', number)
end

-- The score of a message that is delayed until `at`. Messages that are due in the same millisecond keep their order: across
-- calls with equal delays by `rest`, the microseconds of the call; within a call by `which`, the number of the message.
local function score(at, rest, which)
  return string.format('%.5f', at + rest + which * 0.00025)
end

-- Nodes maintain their sources once a second; they are notified of a message that is due before that. (If an ACL forbids
-- PUBLISH, such a message is up to a second late.)
local function announce(source, at, now)
  if at < now + 1100 then
    redis.pcall('PUBLISH', 'actorwork:attend', source)
  end
end
