-- Finds deliveries that are pending under our name and unknown to us: the reply that brought them was lost.
--
-- KEYS  the source
-- ARGV  group, consumer, how many are wanted, then the ids of the entries that are in flight at the node
--
-- Returns whether there are more, the deliveries as {entry id, delivery count, fields}, and the ids of entries that are lost. Their counts stay, as these
-- deliveries have not begun: with a higher count they would look like crashes. XCLAIM returns the fields in the same call,
-- and shows whether the entry still exists; one that was deleted by hand is lost. It is acknowledged, or it would be found
-- forever.

local stream, group, consumer, room = KEYS[1], ARGV[1], ARGV[2], tonumber(ARGV[3])
local PAGE = 1000
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
      local entry = redis.call('XCLAIM', stream, group, consumer, 0, id, 'RETRYCOUNT', count)[1]
      if entry and entry[2] then
        found[#found + 1] = { id, count, entry[2] }
      else
        redis.call('XACK', stream, group, id)
        lost[#lost + 1] = id
      end
    end
  end
  if #page < PAGE then
    return { 0, found, lost }
  end
  from = '(' .. page[#page][1]
end
