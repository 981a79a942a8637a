-- Keeping a message once. (A part: scripts begin with the parts they need.)
--
-- A message is kept at most once for its source and id. What remembers the id is its mark: one bit of a bitmap for ids of
-- the form <publisher>-<number>, else a key of its own. A mark and its message are written together, so a publish whose
-- reply was lost can be sent again.

local MARK_SECONDS = 86400

-- Milliseconds since the epoch, by the only clock that all nodes share.
local function now_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

local function whole(number)
  return string.format('%.0f', number)
end

-- `due` is '' (at once), '+<ms>' (so much later) or '<ms>' (since the epoch).
local function due_ms(due)
  if due == '' then
    return nil
  end
  local now = now_ms()
  local at = tonumber(due)
  if string.sub(due, 1, 1) == '+' then
    at = now + at
  end
  if at <= now then
    return nil
  end
  return at
end

local function hold_back(stream, prefix, member, at, fields)
  redis.call('ZADD', prefix .. 'delayed', whole(at), member)
  redis.call('HSET', prefix .. 'delayed:messages', member, cmsgpack.pack(fields))
  -- Nodes look once a second: what is due before that, they are told of. (Where that is not allowed, they are late.)
  if at < now_ms() + 1100 then
    redis.pcall('PUBLISH', 'actorwork:attend', stream)
  end
end

-- Keeps the message whose fields are ARGV[first..last] (the first pair is its id), unless its mark is set. Returns
-- whether it was new, and an error if the source is no stream. `touched` names the marks whose time was set before.
local function keep(stream, prefix, mark, offset, due, first, last, touched)
  if offset == '' then
    if not redis.call('SET', mark, '', 'NX', 'EX', MARK_SECONDS) then
      return false
    end
  else
    if redis.call('SETBIT', mark, offset, 1) == 1 then
      return false
    end
    if not touched[mark] then
      touched[mark] = true
      redis.call('EXPIRE', mark, MARK_SECONDS)
    end
  end
  if due ~= '' then
    local at = due_ms(due)
    if at then
      local fields = {}
      for i = first, last do
        fields[#fields + 1] = ARGV[i]
      end
      hold_back(stream, prefix, ARGV[first + 1], at, fields)
      return true
    end
  end
  local added = redis.pcall('XADD', stream, '*', unpack(ARGV, first, last))
  if type(added) == 'table' and added.err then
    -- A mark without its message would make every later attempt look like a repetition.
    if offset == '' then
      redis.call('DEL', mark)
    else
      redis.call('SETBIT', mark, offset, 0)
    end
    return false, added.err
  end
  return true
end
