-- One operation on the record of a trigger.
--
-- KEYS  the trigger: a hash of its definition, and of registered, last (ms), fired, declared (1 or 0); once a user has
--       changed it by hand also of changes (JSON), changed (ms), revision, and put (1 or 0)
-- ARGV  register, then the definition: field, value, ...
--       amend, the revision that it is to have now, put (1 or 0), whether times until now are decided (1 or 0), the
--       changes ('': none), then the definition of a trigger that no code declares: field, value, ...
--       skip | vanish
--
-- Returns for register its state, for amend 1, or false if another user was quicker; for the others whether there is such a
-- trigger.

local trigger, operation = KEYS[1], ARGV[1]
local before = redis.call('HMGET', trigger, 'schedule', 'last', 'registered', 'changes', 'revision', 'declared')

local function begin(now)
  redis.call('HSET', trigger, 'registered', now, 'last', now, 'fired', '0', 'declared', '0')
end

local function skip(now)
  if tonumber(before[2]) < tonumber(now) then
    redis.call('HSET', trigger, 'last', now)
  end
end

local function define(first)
  redis.call('HDEL', trigger, 'type')
  redis.call('HSET', trigger, unpack(ARGV, first))
end

if operation == 'register' then
  local named = {}
  for i = 2, #ARGV, 2 do
    named[ARGV[i]] = ARGV[i + 1]
  end
  local now = whole(now_ms())
  if not before[1] then
    begin(now)
  elseif before[1] ~= named['schedule'] and not (before[4] and cjson.decode(before[4])['schedule']) then
    skip(now) -- What the schedule before has missed does not fire.
  end
  define(2)
  redis.call('HSET', trigger, 'declared', '1')
  return redis.call('HMGET', trigger, 'registered', 'last', 'fired', 'declared', 'changes', 'changed', 'revision', 'put')
end
if operation == 'amend' then
  if (before[5] or '0') ~= ARGV[2] then
    return false
  end
  local now = whole(now_ms())
  if not before[1] then
    begin(now)
  elseif ARGV[4] == '1' then
    skip(now)
  end
  if before[6] ~= '1' then
    define(6)
  end
  -- A revision is used once, even if the trigger is deleted and comes back.
  local revision = whole(math.max(tonumber(now), tonumber(ARGV[2]) + 1))
  redis.call('HSET', trigger, 'revision', revision, 'changed', now, 'put', ARGV[3])
  if ARGV[5] == '' then
    redis.call('HDEL', trigger, 'changes')
  else
    redis.call('HSET', trigger, 'changes', ARGV[5])
  end
  return 1
end
if not before[1] then
  return 0
end
if operation == 'vanish' then
  redis.call('HSET', trigger, 'declared', '0')
else
  skip(whole(now_ms()))
end
return 1
