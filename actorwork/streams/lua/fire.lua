-- Fires a trigger: keeps its messages and records the decision, unless another node has decided since.
--
-- KEYS  the trigger, the source, its `delayed`, its `delayed:messages`, then the marks
-- ARGV  the prefix of the source's keys, the schedule, the nominal time that the node believes was decided last, the one
--       that is decided now, the revision of the changes made by hand, then the messages (`keep_all` in publish.lua)
--
-- Returns what happened, the nominal time that was decided last, and how many messages are new.
--
-- All nodes compute the same nominal times. The comparison with `last` and the change of it happen in this one script, so
-- of several nodes that fire at the same moment exactly one sends.

local trigger, prefix = KEYS[1], ARGV[1]
local record = redis.call('HMGET', trigger, 'schedule', 'last', 'revision')
if not record[1] then
  return { 'unknown', '0', 0 }
end
if (record[3] or '0') ~= ARGV[5] then
  return { 'changed', record[2], 0 } -- The node fires it otherwise than a user wants.
end
if record[1] ~= ARGV[2] then
  return { 'superseded', record[2], 0 } -- A newer version of the program has declared another schedule.
end
if record[2] ~= ARGV[3] then
  return { 'decided', record[2], 0 }
end

local new, problem = keep_all(prefix, 6)
if problem then
  return redis.error_reply(problem) -- Not recorded: the next try finds the marks of the messages that were kept.
end
redis.call('HSET', trigger, 'last', ARGV[4])
redis.call('HINCRBY', trigger, 'fired', new)
return { 'fired', ARGV[4], new }
