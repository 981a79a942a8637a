-- Finds deliveries that are pending under our name and unknown to us: the reply that brought them was lost.
--
-- KEYS  the source
-- ARGV  group, consumer, how many are wanted, then the ids of the entries that are in flight at the node
--
-- Returns whether there are more, the deliveries as {entry id, delivery count, fields}, and the ids of entries that are lost:
-- deleted by hand. These stay pending until their messages have been told to be lost (lost.lua). The counts of the others stay,
-- as these deliveries have not begun: with a higher count they would look like crashes.

local stream, group, consumer, room = KEYS[1], ARGV[1], ARGV[2], tonumber(ARGV[3])
local PAGE = 1000
local LOST_AT_ONCE = 1000
local in_hand = {}
for i = 4, #ARGV do
  in_hand[ARGV[i]] = true
end

local found, lost = {}, {}
local from = '-'
while true do
  local page = redis.call('XPENDING', stream, group, from, '+', PAGE, consumer)
  for _, pending in ipairs(page) do
    local id, count = pending[1], pending[4]
    if not in_hand[id] then
      if #found >= room then
        return { 1, found, lost }
      end
      local entry = redis.call('XRANGE', stream, id, id)[1]
      if entry then
        found[#found + 1] = { id, count, entry[2] }
      elseif #lost < LOST_AT_ONCE then
        lost[#lost + 1] = id
      end
    end
  end
  if #page < PAGE then
    return { 0, found, lost }
  end
  from = '(' .. page[#page][1]
end
