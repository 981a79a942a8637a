-- Drops a message that is delayed or waits for its key; returns whether there was one.
--
-- KEYS  the source
-- ARGV  the prefix of the source's keys, the message id

local prefix, message_id = ARGV[1], ARGV[2]
local reason = 'it was cancelled before it was begun'
local count = 0

local function try(place)
  if drop(prefix, place, 'Cancelled', reason) then
    count = count + 1
  end
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
join_all()
return count > 0
