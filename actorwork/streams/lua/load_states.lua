-- Returns the states of entities of one group, for a node that may know them.
--
-- KEYS  the source
-- ARGV  the keys of the states without the key of the entity; then for each: that, and the stamp that the node knows ('' for
--       none)
--
-- Returns for each 1 if the state has this stamp, so that it need not travel; false if there is none; else the values of its
-- fields, in the order of streams/entities.py.

local near = ARGV[1]
local found = {}
for i = 2, #ARGV, 2 do
  local state, stamp = near .. ARGV[i], ARGV[i + 1]
  if stamp ~= '' and redis.call('HGET', state, 'n') == stamp then
    found[i / 2] = 1
  else
    local values = redis.call('HMGET', state, 'v', 'data', 'at', 'by', 'node', 's', 'n', 'm')
    found[i / 2] = values[1] and values
  end
end
return found
