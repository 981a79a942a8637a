-- Ends that deliveries of one source are held for a batch over several slots of a cluster, which is not settled
-- (streams/joint.py).
--
-- KEYS  the notes of what is held
-- ARGV  what is noted of this batch
--
-- Returns how many there were. What is held for other batches stays.

local count = 0
local notes = redis.call('HGETALL', KEYS[1])
for i = 1, #notes, 2 do
  if notes[i + 1] == ARGV[1] then
    count = count + redis.call('HDEL', KEYS[1], notes[i])
  end
end
return count
