-- Keeps a page of the steps of a large run that the settlement of a delivery is about to start, if the delivery is still ours.
--
-- KEYS  the stream
-- ARGV  group, consumer, entry id, delivery count, where the page is kept, the page as JSON, for how many ms
--
-- Returns whether it is kept. It may be done twice. The keys expire if the run is not started (run_starting.lua).

local stream, group, consumer, id, count = KEYS[1], ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local mine, problem = fence(stream, group, consumer, id, id, 1)
if not mine then
  return redis.error_reply(problem)
end
if not mine(id, count) then
  return 0
end
add_page(ARGV[5], ARGV[6], ARGV[7])
return 1
