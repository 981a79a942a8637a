-- How an entry leaves its stream. (A part: scripts begin with the parts they need.)

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

-- Whether any of these groups (from XINFO GROUPS, by name) has not read an entry yet, or has it pending.
local function is_wanted(stream, groups, id)
  local ms, seq = string.match(id, '^(%d+)%-(%d+)$')
  for _, other in ipairs(groups) do
    if not not_after(ms, seq, other['last-delivered-id']) then
      return true
    elseif other['pending'] > 0 and #redis.call('XPENDING', stream, other['name'], id, id, 1) > 0 then
      return true
    end
  end
  return false
end

-- Acknowledges entries in `group`, and deletes those that no other group wants any more. Returns those.
--
-- XACK comes first: our own group must not count as one that still wants the entry. With one group, which is usual, this is
-- one XACK, one XINFO and one XDEL for all entries; with several, each entry costs a lookup in the pending list of every
-- other group that has pending entries.
local function ack_and_delete(stream, group, ids)
  local count = #ids
  if count == 0 then
    return ids
  end
  for first = 1, count, CHUNK do
    redis.call('XACK', stream, group, unpack(ids, first, math.min(first + CHUNK - 1, count)))
  end
  local groups = redis.call('XINFO', 'GROUPS', stream)
  if #groups > 1 then
    local others = {}
    for _, flat in ipairs(groups) do
      local other = by_name(flat)
      if other['name'] ~= group then
        others[#others + 1] = other
      end
    end
    local done = {}
    for _, id in ipairs(ids) do
      if not is_wanted(stream, others, id) then
        done[#done + 1] = id
      end
    end
    ids = done
    count = #ids
  end
  for first = 1, count, CHUNK do
    redis.call('XDEL', stream, unpack(ids, first, math.min(first + CHUNK - 1, count)))
  end
  return ids
end
