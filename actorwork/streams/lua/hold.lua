-- Holds deliveries of one stream for a batch over several slots of a cluster (streams/joint.py): until it is decided whether
-- the batch is settled, no other node takes them over.
--
-- KEYS  the stream, the notes of what is held
-- ARGV  the prefix of the source's keys, group, consumer, what is noted, first and last id, how many deliveries; for each of
--       those: entry id, delivery count
--
-- Returns, as the scripts that settle do, four values, of which the second are those (0, 1, ...) that are not ours any more:
-- then nothing is held. It may be done twice.

local stream, notes = KEYS[1], KEYS[2]
local prefix, group, consumer, noted = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local mine, problem = fence(stream, group, consumer, ARGV[5], ARGV[6], ARGV[7])
if not mine then
  return redis.error_reply(problem)
end
local lacking = lacks('ack', needs_of_ack, stream, group)
  or #groups_found(stream) > 1 and lacks('sharing', needs_of_sharing, stream, group)
  or lacks('leaving', needs_of_leaving, prefix)
  or lacks('result', needs_of_result, prefix)
  or not may('HSET', notes, '', '') and 'NOPERM this user may not run HSET on ' .. notes
  or not may('HDEL', notes, '') and 'NOPERM this user may not run HDEL on ' .. notes
if lacking then
  return redis.error_reply(lacking)
end
local level = level_of(prefix, stream)
local fenced, values = {}, {}
for i = 8, #ARGV, 2 do
  if mine(ARGV[i], ARGV[i + 1]) then
    values[#values + 1] = place_at(level, ARGV[i])
    values[#values + 1] = noted
  else
    fenced[#fenced + 1] = (i - 8) / 2
  end
end
if #fenced == 0 then
  for first = 1, #values, CHUNK do
    redis.call('HSET', notes, unpack(values, first, math.min(first + CHUNK - 1, #values)))
  end
end
return { '', fenced, {}, {} }
