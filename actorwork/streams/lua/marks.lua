-- Remembering the ids of messages. (A part: scripts begin with the parts they need.)
--
-- A message is kept at most once for its source and id. The mark remembers the id: one bit of a bitmap for ids of the form
-- <publisher>-<number>, else a key of its own. A mark and its message are written together, so a publish whose reply was
-- lost can be sent again.
--
-- The marks of a run of messages are set by one BITFIELD, whose arguments come from the publisher: SET u<width> <bit> <all
-- ones> for each piece of up to 48 consecutive bits. It returns the bits as they were before. (48, because numbers in Lua
-- are exact up to 53 bits.)

-- Sets the marks of ARGV[first..last]. Returns nil if all ids are new, else which of the messages (1, 2, ...) are not.
local function mark_all(mark, first, last)
  local before = redis.call('BITFIELD', mark, unpack(ARGV, first, last))
  local seen, count = nil, 0
  for i = 1, #before do
    local width = tonumber(string.sub(ARGV[first + 4 * i - 3], 2))
    local bits = before[i]
    if bits ~= 0 then
      seen = seen or {}
      for which = width, 1, -1 do -- The first message of a piece is its highest bit.
        seen[count + which] = bits % 2 == 1
        bits = math.floor(bits / 2)
      end
    end
    count = count + width
  end
  return seen
end

-- Removes the marks of new messages from the `which`th on: a mark without its message would make a later try report success
-- for a message that does not exist. Marks that were set before this script stay.
local function unmark_from(mark, first, last, seen, which)
  local count = 0
  for i = first, last, 4 do
    for bit = 0, tonumber(string.sub(ARGV[i + 1], 2)) - 1 do
      count = count + 1
      if count >= which and not (seen and seen[count]) then
        -- The command that has set it: another one might be forbidden.
        redis.call('BITFIELD', mark, 'SET', 'u1', ARGV[i + 2] + bit, 0)
      end
    end
  end
end
