-- Drops a message that is delayed or waits for its key; with a reason, cancels a tracked message wherever it is. Returns whether
-- that changed anything: it does not if the message is over, or was cancelled before. -1 for a message that is on its way to another
-- shard (drain.lua): it can be cancelled there, in a moment.
--
-- KEYS  the source
-- ARGV  the prefix of the source's keys, the message id; then the reason, and whether a handler that does not end is to be ended
--       with its process (0 or 1)
--
-- A message that no node has been given is dropped here, and those that wait for its outcome are notified. For one in flight this is noted.

local prefix, message_id, reason = ARGV[1], ARGV[2], ARGV[3]
local said = reason and reason ~= '' and reason or 'it was cancelled before it was begun'
local count = 0

local function try(place)
  if drop(prefix, place, 'Cancelled', said) then
    count = count + 1
  end
end

local place, _, status = lives.place(prefix, message_id)
if reason and status and not place then
  return false
elseif place == lives.MOVING then
  return -1
end
try('~' .. message_id)
try('=' .. message_id)
-- Each group retries by itself, under a member of its own.
local groups = redis.pcall('XINFO', 'GROUPS', KEYS[1])
for _, flat in ipairs(groups.err and {} or groups) do
  local member = message_id .. '/' .. by_name(flat)['name']
  try('~' .. member)
  try('=' .. member)
end
if reason and count == 0 and place then
  if place ~= '' then
    try(place)
  end
  if count == 0 and cancels.note(prefix, message_id, reason ~= '' and reason or 'it was cancelled', ARGV[4] == '1') then
    count = 1
  end
end
join_all()
return count > 0
