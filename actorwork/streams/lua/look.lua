-- Whether sources are to be maintained now, asked by each node about once a second; and what each node is to know by itself.
--
-- KEYS  the lease of this node (on a cluster, where it is in another slot, any other key), then the streams: sources, and those of their priorities
-- ARGV  group, consumer, for how many ms this look counts (after how many this node looks again); then for each stream: the
--       prefix of its source's keys, how many entries pending under our name to look for (one more than are in flight; 0 for
--       not now), and how many levels of priority of the source are known; then whether this node has no room (0 or 1)
--
-- Returns nil if this node holds no lease, else: in how many ms a node is to maintain (0: now; less than 0: it should have
-- done so that long ago), in how many ms the next message is due (-1 for none), how many nodes of the group there are, for each
-- stream how many entries were found under our name, the levels of priority that were ever used if there are others than are
-- known, and the messages that were cancelled in flight; and how many of the nodes have room.
--
-- All nodes of a group ask this, so it must stay small: it does not begin with the parts that maintain.lua needs, whose
-- definitions alone cost more than all of this.

-- The node that finds that it is time maintains, and for a moment no other one does. If it ends before, the next one comes then.
local LEFT_TO_ONE = 250 -- ms

local group, consumer = ARGV[1], ARGV[2]
if string.find(KEYS[1], 'actorwork:node:', 1, true) == 1 and redis.call('EXISTS', KEYS[1]) == 0 then
  return false
end

local now = now_ms()
local come, due_in, nodes, roomy, found = FRESH, -1, 1, 1000000, {}
for s = 2, #KEYS do
  local stream, prefix, wanted = KEYS[s], ARGV[3 * s - 2], tonumber(ARGV[3 * s - 1])
  local ours, levels, cancelled = 0, {}, {}
  if wanted > 0 then
    local page = redis.pcall('XPENDING', stream, group, '-', '+', wanted, consumer)
    if page.err then
      come = 0 -- The group is missing: maintenance says so.
    else
      ours = #page
    end
  end
  if prefix == 'actorwork:{' .. stream .. '}:' then
    local noted = redis.pcall('HMGET', tended_at(prefix, group), 'at', 'due', 'nodes', 'roomy')
    local at = ms_in(noted[1])
    local age = now - at
    if noted.err or at == 0 or age < 0 then
      come = math.min(come, 0)
    else
      come = math.min(come, FRESH - age)
      if age >= FRESH then
        note_tended('HSET', tended_at(prefix, group), 'at', whole(now - FRESH + LEFT_TO_ONE))
      end
    end
    local due = ms_in(noted[2])
    if due > 0 then
      local left = math.max(0, due - now)
      due_in = due_in < 0 and left or math.min(due_in, left)
    end
    if noted[1] then
      nodes = math.max(nodes, ms_in(noted[3]))
      note_tended('HINCRBY', tended_at(prefix, group), 'asked', ARGV[3])
      if ARGV[#ARGV] == '1' then
        note_tended('HINCRBY', tended_at(prefix, group), 'full', ARGV[3])
      end
    end
    roomy = math.min(roomy, ms_in(noted[4]))
    if redis.call('SCARD', prefix .. 'priorities') ~= tonumber(ARGV[3 * s]) then
      levels = redis.call('SMEMBERS', prefix .. 'priorities')
    end
    cancelled = redis.call('HGETALL', prefix .. 'cancelled')
  end
  found[#found + 1] = { ours, levels, cancelled }
end
if due_in == 0 then
  come = math.min(come, 0)
end
return { come, due_in, nodes, found, roomy }
