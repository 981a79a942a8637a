-- Pauses or resumes, and notifies the nodes.
--
-- KEYS  what is paused, a hash: kind and name -> JSON
-- ARGV  the channel, pause | resume, kind and name, then for pause: reason, by whom
--
-- Returns for pause the JSON, for resume whether there was such a pause.

local channel, operation, field = ARGV[1], ARGV[2], ARGV[3]
local answer
if operation == 'pause' then
  redis.call('HSETNX', KEYS[1], field, cjson.encode({ reason = ARGV[4], by = ARGV[5], at = now_ms() }))
  answer = redis.call('HGET', KEYS[1], field)
else
  answer = redis.call('HDEL', KEYS[1], field)
end
redis.pcall('PUBLISH', channel, field) -- If an ACL forbids that, nodes see the change at their next look.
return answer
