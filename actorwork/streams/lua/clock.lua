-- The only clock that all nodes share. (A part: scripts begin with the parts they need.)

-- Milliseconds since the epoch, whole ones; and the rest of the time, less than one.
local function now_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000), time[2] % 1000 / 1000
end

local function whole(number)
  return string.format('%.0f', number)
end

-- The score of what is held back until `at`. What is due in the same millisecond keeps its order: of several calls, where
-- the delays are alike, by `rest`, the microseconds of the call; within one by `which`, the number of the message.
local function score(at, rest, which)
  return string.format('%.5f', at + rest + which * 0.00025)
end

-- Nodes look once a second: what is due before that, they are told of. (Where that is not allowed, they are late.)
local function announce(source, at, now)
  if at < now + 1100 then
    redis.pcall('PUBLISH', 'actorwork:attend', source)
  end
end
