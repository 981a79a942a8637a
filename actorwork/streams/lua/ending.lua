-- How a batch of settlements ends: what the entries held is freed, and the node may get what it would read next. (A part:
-- scripts begin with the parts they need.)

local notes = {}
local keys_left, uniques_left, is_anything_left = {}, {}, false -- By the entries that are going to be acknowledged.

local function note(text)
  notes[#notes + 1] = which
  notes[#notes + 1] = text
end

-- Notes what an entry of `acked` holds: it is free once the entry has left.
local function holds(id, key, unique)
  if key or unique then
    keys_left[id], uniques_left[id], is_anything_left = key, unique, true
  end
end

-- Reads for the node what it would read next, once messages have entered the stream as others of their keys have left: the
-- oldest entries, whichever they are, so no key and no node waits longer for this. The stamp of the state of an entry's key is
-- '' if there is none, and '?' if it is not known.
local function read_ahead(count)
  local reply = redis.pcall('XREADGROUP', 'GROUP', group, consumer, 'COUNT', count, 'STREAMS', stream, '>')
  local found = reply and reply[1] and reply[1][2] or {}
  for _, entry in ipairs(found) do
    local named = by_name(entry[2])
    entry[3] = named['data'] and named['key'] and entities.stamp(prefix, group, named['key']) or '?'
  end
  return found
end

-- Acknowledges what is settled, all in one call, and returns the answer of the script, which it records. `join` joins the
-- steps of runs that have ended (join.lua), where there may be any.
local function conclude(room, join)
  local gone = ack_and_delete(stream, group, acked)
  if is_anything_left then
    local level = level_of(prefix, stream)
    for _, id in ipairs(gone) do
      local key, unique = keys_left[id], uniques_left[id]
      if key or unique then
        leave(prefix, place_at(level, id), key, unique)
      end
    end
  end
  if join then
    join()
  end
  entities.list(prefix, group)
  local waiting = called[stream]
  local given = room > 0 and waiting and read_ahead(math.min(room, waiting)) or {}
  local answer = { number, fenced, refused, notes, #given }
  redis.call('SET', record, cmsgpack.pack(answer), 'PX', RECORD_MS)
  answer[6] = given
  return answer
end
