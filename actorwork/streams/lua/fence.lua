-- The fence: is a delivery still ours? (A part: scripts begin with the parts they need.)
--
-- XACK checks no owner, so a node that was taken for dead could acknowledge an entry that another node handles now. An entry
-- is ours as long as the pending list has it under our name, with the delivery count under which it was delivered to us. The
-- count is needed too: an entry may be taken from us and come back to us, and the first delivery must not settle the second.

-- Returns a function mine(id, count), and an error. One XPENDING between `first` and `last` looks up as many entries as are
-- settled. Other entries of ours in that range may displace some of them from the page; these are looked up one by one.
local function fence(stream, group, consumer, first, last, count)
  local page = redis.pcall('XPENDING', stream, group, first, last, count, consumer)
  if page.err then
    -- Without its group (destroyed, or the server was emptied) no node owns anything.
    if string.find(page.err, 'NOGROUP', 1, true) or string.find(page.err, 'WRONGTYPE', 1, true) then
      return function()
        return false
      end
    end
    return nil, page.err
  end
  local counts = {}
  for i = 1, #page do
    local entry = page[i]
    counts[entry[1]] = entry[4]
  end
  return function(id, wanted)
    local found = counts[id]
    if found == nil then
      local alone = redis.call('XPENDING', stream, group, id, id, 1, consumer)
      found = alone[1] and alone[1][4] or false
    end
    return found == tonumber(wanted)
  end
end
