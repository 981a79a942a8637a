-- How a batch of settlements begins: repeated answers, the fence, plain acks. (A part: scripts begin with the parts they
-- need.) It leaves `acked`, the entries to be acknowledged, `fenced` and `refused`; the rest of the script continues at
-- `which` and `i`.
--
-- The rights come before the first write, so that a batch which this user may not settle now is settled later, as a whole.
--
-- The recorded answer comes before the fence. A batch that is sent again after a lost reply finds its entries settled, and
-- the fence would refuse every one of them, so the node would report a lost lease that it never lost.

local stream, record = KEYS[1], KEYS[2]
local prefix, group, consumer, number = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local RECORD_MS = 3600000

local kept = redis.call('GET', record)
if kept then
  local answer = cmsgpack.unpack(kept)
  if answer[1] == number then
    return answer
  end
end

local mine, problem = fence(stream, group, consumer, ARGV[5], ARGV[6], ARGV[7])
if not mine then
  return redis.error_reply(problem)
end

local lacking = lacks('ack', needs_of_ack, stream, group)
  or #groups_found(stream) > 1 and lacks('sharing', needs_of_sharing, stream, group)
  or not may('SET', record, '', 'PX', 1) and 'NOPERM this user may not run SET on ' .. record
if lacking then
  return redis.error_reply(lacking)
end

-- Settling frees memory, so it must work when there is none left. DEL is allowed then, and once a script has written, none of
-- its commands is refused for lack of memory. So this DEL must come before any command that allocates.
redis.call('DEL', record)

local acked, fenced, refused = {}, {}, {}
local settled = {}

local which = 0
local i = 9
local plain_end = 8 + 2 * ARGV[8]
while i < plain_end do
  local id = ARGV[i]
  -- The same entry twice in one batch: the second settlement is a late one, and is refused.
  if not settled[id] and mine(id, ARGV[i + 1]) then
    settled[id] = true
    acked[#acked + 1] = id
  else
    fenced[#fenced + 1] = which
  end
  which = which + 1
  i = i + 2
end
