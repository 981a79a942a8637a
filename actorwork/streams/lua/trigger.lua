-- One operation on the record of a trigger.
--
-- KEYS  the trigger: a hash of its definition, and of registered, last (ms), fired, declared (1 or 0)
-- ARGV  register, then the definition: field, value, ...
--       skip | vanish
--
-- Returns for register what is registered, last and fired; for the others whether there is such a trigger.

local trigger, operation = KEYS[1], ARGV[1]
local before = redis.call('HMGET', trigger, 'schedule', 'last', 'registered')
if operation == 'register' then
  local named = {}
  for i = 2, #ARGV, 2 do
    named[ARGV[i]] = ARGV[i + 1]
  end
  local now = whole(now_ms())
  if not before[1] then
    redis.call('HSET', trigger, 'registered', now, 'last', now, 'fired', '0')
  elseif before[1] ~= named['schedule'] and tonumber(before[2]) < tonumber(now) then
    redis.call('HSET', trigger, 'last', now) -- What the schedule before has missed does not fire.
  end
  redis.call('HDEL', trigger, 'type')
  redis.call('HSET', trigger, 'declared', '1', unpack(ARGV, 2))
  return redis.call('HMGET', trigger, 'registered', 'last', 'fired')
end
if not before[1] then
  return 0
end
if operation == 'vanish' then
  redis.call('HSET', trigger, 'declared', '0')
elseif tonumber(before[2]) < now_ms() then
  redis.call('HSET', trigger, 'last', whole(now_ms()))
end
return 1
