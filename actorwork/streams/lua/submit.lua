-- Keeps messages of one source whose results are to be kept, that are due at once and depend on no others; returns how many
-- were new.
--
-- KEYS  the source, the mark that their ids share
-- ARGV  the prefix of the source's keys, for how many seconds the mark is kept ('' to leave its time as it is), then for each
--       message: its bit, how many ms to keep its result, how many values follow, and those: field, value, ... (the first pair
--       is its id, the last one its claim)
--
-- The claim comes before the entry: a node may settle the message in the next moment. If the entry cannot be added, its mark is
-- removed again; the claim stays, and proves nothing.

local CLAIM_SECONDS = 40 * 86400 -- As in publisher.py: longer than a dead letter is kept.
local stream, mark, prefix = KEYS[1], KEYS[2], ARGV[1]
local new, i = 0, 3
while i <= #ARGV do
  local bit, ttl, first = ARGV[i], ARGV[i + 1], i + 3
  local last = i + 2 + ARGV[i + 2]
  if redis.call('SETBIT', mark, bit, 1) == 0 then
    local message_id, claim = ARGV[first + 1], ARGV[last]
    redis.call('SET', prefix .. 'claim:' .. message_id, claim, 'EX', CLAIM_SECONDS)
    local added = redis.pcall('XADD', stream, '*', unpack(ARGV, first, last))
    if type(added) == 'table' then
      redis.call('SETBIT', mark, bit, 0)
      return redis.error_reply(added.err)
    end
    lives.begin(prefix, message_id, claim, ttl, string.match(added, '^%d+'), added)
    new = new + 1
  end
  i = last + 1
end
if ARGV[2] ~= '' then
  redis.call('EXPIRE', mark, ARGV[2])
end
return new
