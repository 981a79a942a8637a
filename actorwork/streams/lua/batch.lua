-- How a batch of settlements begins: repeated answers, the fence, plain acks. (A part: scripts begin with the parts they
-- need.) What follows finds `acked`, the entries to be acknowledged, `fenced` and `refused`; `which` and `i` say where it
-- goes on.

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

-- Settling frees memory, so it must go on when there is none: once a script has written, nothing in it is refused for that.
redis.call('DEL', record)

local acked, fenced, refused = {}, {}, {}
local settled = {}

local which = 0
local i = 9
local plain_end = 8 + 2 * ARGV[8]
while i < plain_end do
  local id = ARGV[i]
  if not settled[id] and mine(id, ARGV[i + 1]) then
    settled[id] = true
    acked[#acked + 1] = id
  else
    fenced[#fenced + 1] = which
  end
  which = which + 1
  i = i + 2
end
