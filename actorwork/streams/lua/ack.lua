-- How an entry leaves its stream. (A part: scripts begin with the parts they need.)
--
-- An entry is deleted when every group has had it. Redis does not say which groups have acknowledged an entry, only which
-- have it pending or have not read it, so of our own groups we keep it:
--
--   groups              the groups of actors; any other group of the stream is foreign: a monitor, another program
--   acked:<group>       the entries that this group has settled and another group still needs (with one group: none)
--   kept                those of them that only foreign groups need: for us they have ended, and their keys are free
--
-- They are under the prefix of the source, those of a stream for a priority under the name of that stream. An entry that one
-- of our groups has read, that it has not pending and that is not in `acked` was taken from the group by hand (XGROUP
-- DELCONSUMER, XACK, XGROUP SETID): its message was never handled (maintain.lua gives it back).

local CHUNK = 1000 -- How many values may be unpacked into one call.

-- The pairs of a reply such as that of XINFO, by name.
local function by_name(flat)
  local named = {}
  for i = 1, #flat, 2 do
    named[flat[i]] = flat[i + 1]
  end
  return named
end

local function not_after(ms, seq, other)
  local other_ms, other_seq = string.match(other, '^(%d+)%-(%d+)$')
  if #ms ~= #other_ms then
    return #ms < #other_ms
  end
  if ms ~= other_ms then
    return ms < other_ms
  end
  -- As text: a sequence number has 64 bits, a number of Lua's 53.
  if #seq ~= #other_seq then
    return #seq < #other_seq
  end
  return seq <= other_seq
end

local known_groups = {}

-- The groups of a stream as XINFO tells them, an error if it does not. Of other groups than ours nothing changes within a
-- script, so they are asked for once.
local function groups_found(stream)
  local found = known_groups[stream]
  if not found then
    found = redis.pcall('XINFO', 'GROUPS', stream)
    known_groups[stream] = found
  end
  return found
end

-- The same, each with its facts by their names. Not needed where there is one group, as is usual.
local function groups_of(stream)
  local groups = {}
  local found = groups_found(stream)
  for i, flat in ipairs(found.err and {} or found) do
    groups[i] = by_name(flat)
  end
  return groups
end

-- The prefix of keys that belong to one stream, also to that of a priority.
local function beside(stream)
  if string.match(stream, '^actorwork:{.*}:priority:%l+$') then
    return stream .. ':'
  end
  return 'actorwork:{' .. stream .. '}:'
end

-- The names of the groups that are ours, as a set.
local function our_groups(stream)
  local source = string.match(stream, '^(actorwork:{.*}:)priority:%l+$') or beside(stream)
  local ours = {}
  for _, name in ipairs(redis.call('SMEMBERS', source .. 'groups')) do
    ours[name] = true
  end
  return ours
end

-- Whether a group (from XINFO GROUPS, by name) has read an entry.
local function has_read(group, id)
  local ms, seq = string.match(id, '^(%d+)%-(%d+)$')
  return not_after(ms, seq, group['last-delivered-id'])
end

local function is_pending(stream, group, id)
  return group['pending'] > 0 and #redis.call('XPENDING', stream, group['name'], id, id, 1) > 0
end

-- For each of these entries: true if a group of ours needs it, else the name of a foreign group that does, else nil. `group`
-- itself is not asked: the caller has settled them for it.
local function needed_by_others(stream, groups, group, ids)
  local ours = our_groups(stream)
  local needed = {}
  for _, other in ipairs(groups) do
    local name = other['name']
    if name == group then
      -- Not asked.
    elseif ours[name] then
      for first = 1, #ids, CHUNK do
        local last = math.min(first + CHUNK - 1, #ids)
        local acked = redis.call('SMISMEMBER', beside(stream) .. 'acked:' .. name, unpack(ids, first, last))
        for i, is_acked in ipairs(acked) do
          if is_acked == 0 then
            needed[ids[first + i - 1]] = true
          end
        end
      end
    else
      for _, id in ipairs(ids) do
        if not needed[id] and (not has_read(other, id) or is_pending(stream, other, id)) then
          needed[id] = name
        end
      end
    end
  end
  return needed
end

-- Calls a command with ids, as many at once as Lua can pass; returns the sum of the replies.
local function call_with(command, key, ids)
  local sum = 0
  for first = 1, #ids, CHUNK do
    sum = sum + redis.call(command, key, unpack(ids, first, math.min(first + CHUNK - 1, #ids)))
  end
  return sum
end

-- Deletes entries that no group needs, and what is noted of them.
local function delete_entries(stream, groups, ids)
  call_with('XDEL', stream, ids)
  for _, other in ipairs(groups) do
    call_with('SREM', beside(stream) .. 'acked:' .. other['name'], ids)
  end
  call_with('SREM', beside(stream) .. 'kept', ids)
end

-- Acknowledges entries in `group`, and deletes those that no other group needs any more. Returns those that none of our groups
-- needs: their messages have ended, also if a foreign group keeps the entries.
--
-- With one group, which is usual, this is one XACK, one XINFO and one XDEL for all entries; with several, each other group of
-- ours costs a SMISMEMBER and an SREM for all of them, and a foreign group that has pending entries a lookup in its pending
-- list for each.
local function ack_and_delete(stream, group, ids)
  local count = #ids
  if count == 0 then
    return ids
  end
  local found = groups_found(stream)
  if found.err then
    redis.call('XINFO', 'GROUPS', stream) -- Raises it: not knowing the groups, no entry may be deleted.
  end
  for first = 1, count, CHUNK do
    redis.call('XACK', stream, group, unpack(ids, first, math.min(first + CHUNK - 1, count)))
  end
  if #found == 1 then
    call_with('XDEL', stream, ids)
    return ids
  end
  local groups = groups_of(stream)
  local needed = needed_by_others(stream, groups, group, ids)
  local free, kept, acked, ended = {}, {}, {}, {}
  for _, id in ipairs(ids) do
    local by = needed[id]
    if by then
      acked[#acked + 1] = id
    else
      free[#free + 1] = id
    end
    if by ~= true then
      ended[#ended + 1] = id
      if by then
        kept[#kept + 1] = id
      end
    end
  end
  call_with('SADD', beside(stream) .. 'acked:' .. group, acked)
  call_with('SADD', beside(stream) .. 'kept', kept)
  delete_entries(stream, groups, free)
  return ended
end
