-- Fires a trigger: keeps its messages and notes what is decided, if nobody else has decided since.
--
-- KEYS  the trigger, the source, its `delayed`, its `delayed:messages`, then the marks
-- ARGV  the prefix of the source's keys, the schedule, which nominal time was decided last as the node believes, which one is
--       now, then for each message as in publish_batch.lua: which of KEYS is its mark, the bit or '', its terms, how many
--       values follow, and those
--
-- Returns what came of it, the nominal time that was decided last, and how many messages are new.

local trigger, prefix = KEYS[1], ARGV[1]
local record = redis.call('HMGET', trigger, 'schedule', 'last')
if not record[1] then
  return { 'unknown', '0', 0 }
end
if record[1] ~= ARGV[2] then
  return { 'superseded', record[2], 0 }
end
if record[2] ~= ARGV[3] then
  return { 'decided', record[2], 0 }
end

local touched = {}
local new = 0
local i = 5
local last = #ARGV
while i <= last do
  local ending = i + 3 + ARGV[i + 3]
  local added, problem = keep(prefix, KEYS[tonumber(ARGV[i])], ARGV[i + 1], ARGV[i + 2], i + 4, ending, touched)
  if added then
    new = new + 1
  elseif problem then
    return redis.error_reply(problem)
  end
  i = ending + 1
end
redis.call('HSET', trigger, 'last', ARGV[4])
redis.call('HINCRBY', trigger, 'fired', new)
return { 'fired', ARGV[4], new }
