-- Releases deliveries: each entry stays in its place in the stream and belongs to no node, so the next node that maintains
-- the source takes it over, without waiting for a lease to end.
--
-- KEYS  the source
-- ARGV  group, consumer, name of the consumer that owns released entries, first and last id, how many, the user's
--       name of the source;
--       then for each: entry id, delivery count
--
-- Returns how many were still ours. The delivery count goes back by one: this delivery did not happen.
--
-- An entry that was deleted by hand stays pending under our name: XCLAIM would drop it, and no node would learn that its message
-- is lost. It is found as those are that never arrived (recover.lua), or when this node has ended (maintain.lua).

local stream, group, consumer, released = KEYS[1], ARGV[1], ARGV[2], ARGV[3]
local mine, problem = fence(stream, group, consumer, ARGV[4], ARGV[5], ARGV[6])
if not mine then
  return redis.error_reply(problem)
end
local count = 0
for i = 8, #ARGV, 2 do
  local id = ARGV[i]
  local found = mine(id, ARGV[i + 1]) and redis.pcall('XRANGE', stream, id, id)
  if found and (found.err or found[1]) then
    redis.call('XCLAIM', stream, group, released, 0, id, 'RETRYCOUNT', ARGV[i + 1] - 1, 'JUSTID')
    count = count + 1
  end
end
if count > 0 then
  redis.pcall('PUBLISH', 'actorwork:attend', ARGV[7]) -- Nodes look once a second, and at once when notified.
end
return count
