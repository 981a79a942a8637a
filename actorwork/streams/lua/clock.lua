-- The only clock that all nodes share, in milliseconds since the epoch. (A part: scripts begin with the parts they need.)

local function now_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

local function whole(number)
  return string.format('%.0f', number)
end

-- Nodes look once a second: what is due before that, they are told of. (Where that is not allowed, they are late.)
local function announce(source, at, now)
  if at < now + 1100 then
    redis.pcall('PUBLISH', 'actorwork:attend', source)
  end
end
