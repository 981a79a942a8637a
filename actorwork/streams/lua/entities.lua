-- The states of entities: of actors with a durable state for every key. (A part: scripts begin with the parts they need.)
--
--   entity:<group>:<key>    a hash: v (version, the number of commits), data (JSON), s (schema), at (ms), by (the message whose
--                           settlement has committed it, or a user), node, n (a stamp that no other commit has),
--                           m (the marks of the last messages that have changed it, of 8 bytes each, the newest one last),
--                           t (the ttl in ms, if it has one), h (1 if there is a stream of its last changes)
--   entities:<group>        the keys that have a state, by when it changed last (ms): for lists
--   expiring:<group>        those of them that have a ttl, by when the state is gone (ms): maintain.lua takes them off the list
--   past:<group>:<key>      the last changes, a stream with the same fields
--
-- A settlement that changes a state names the version that its handler ran on. If the state has another one by now, because a
-- user has put it or the server has lost the last writes, nothing of the settlement may take effect: its deliveries were
-- handled on what is not there any more.
--
-- The hash decides; lists and past are for people. So a user who may not write these, or finds other types there, commits all
-- the same.
--
-- The past of a state never outlives it: it has the ttl of the state, and goes with the first change of which none is kept.
--
-- Cost: a read and a write; one ZADD for all that a script changes; with a history an XADD, with a ttl a PEXPIRE of each of
-- the two, and another ZADD for all.

local entities = {}

do
  local MARKS, LISTED = 64 * 8, 20 -- As in policy/entities.py.
  -- The key, and more, of the state whose version was looked at last.
  local state, marks, ttl_before, has_past = nil, nil, nil, nil
  local listed, expiring, now, now_text = {}, {}, nil, nil -- What is to be added to the lists, and the time of the script.
  local near = nil -- How the keys of states begin: a script is about one source and group.

  local function state_of(prefix, group, key)
    near = near or prefix .. 'entity:' .. group .. ':'
    return near .. key
  end

  function entities.needs(prefix, group)
    local key = prefix .. 'entity:' .. group .. ':'
    return { { 'TIME' }, { 'HMGET', key, 'v' }, { 'HSET', key, '', '' }, { 'HDEL', key, 't' }, { 'PEXPIRE', key, 1 }, { 'PERSIST', key }, { 'DEL', key } }
  end

  -- The stamp of a state; '' if there is none, and '?' if it cannot be read.
  function entities.stamp(prefix, group, key)
    local stamp = redis.pcall('HGET', state_of(prefix, group, key), 'n')
    return type(stamp) == 'table' and '?' or stamp or ''
  end

  -- The version that a state has, as text; or nil and an error.
  function entities.version(prefix, group, key)
    state = state_of(prefix, group, key)
    local found = redis.pcall('HMGET', state, 'v', 'm', 't', 'h')
    if found.err then
      return nil, found.err
    end
    marks, ttl_before, has_past = found[2] or '', found[3], found[4]
    return found[1] or '0'
  end

  -- Why a settlement may not change the state of a key that its handler has seen with this version; nil if it may.
  function entities.problem(prefix, group, key, expected)
    local version, problem = entities.version(prefix, group, key)
    if problem then
      return 'the state of ' .. key .. ': ' .. problem
    end
    return version ~= expected and 'STALE ' .. version or nil
  end

  local function add(list, scores)
    local pairs_of = {}
    for key, at in pairs(scores) do
      pairs_of[#pairs_of + 1], pairs_of[#pairs_of + 2] = at, key
    end
    if #pairs_of > 0 then
      redis.pcall('ZADD', list, unpack(pairs_of))
    end
  end

  function entities.forget(prefix, group, key)
    redis.call('DEL', state_of(prefix, group, key))
    redis.pcall('DEL', prefix .. 'past:' .. group .. ':' .. key)
    redis.pcall('ZREM', prefix .. 'entities:' .. group, key)
    redis.pcall('ZREM', prefix .. 'expiring:' .. group, key)
    listed[key], expiring[key] = nil, nil
  end

  -- Adds the keys that this script has changed to the lists. Called once, at the end of a script.
  function entities.list(prefix, group)
    add(prefix .. 'entities:' .. group, listed)
    add(prefix .. 'expiring:' .. group, expiring)
  end

  -- Changes the state of the key whose version was looked at last: the version before, stamp, schema, ttl in ms ('' for none,
  -- '=' for that of the last change), how many changes are kept ('': as many as there are, or LISTED), the mark of the message
  -- ('' for none), the new state ('' for none).
  function entities.change(prefix, group, key, by, node, before, stamp, schema, ttl, kept, mark, data)
    if data == '' then
      entities.forget(prefix, group, key)
      return
    elseif ttl == '=' then
      ttl = ttl_before or ''
    end
    if not now then
      now = now_ms()
      now_text = whole(now)
    end
    -- Written out each time: to make a table of these and unpack it takes half as long again as the write.
    local version = whole(before + 1)
    if mark == '' then
      redis.call('HSET', state, 'v', version, 'data', data, 's', schema, 'at', now_text, 'by', by, 'node', node, 'n', stamp)
    else
      local before_it = #marks + #mark <= MARKS and marks or string.sub(marks, #mark - MARKS)
      redis.call('HSET', state, 'm', before_it .. mark, 'v', version, 'data', data, 's', schema, 'at', now_text, 'by', by,
        'node', node, 'n', stamp)
    end
    if kept ~= '0' and not has_past then
      redis.call('HSET', state, 'h', '1')
    end
    if ttl == '' and ttl_before then
      redis.call('PERSIST', state)
      redis.call('HDEL', state, 't')
      redis.pcall('ZREM', prefix .. 'expiring:' .. group, key)
      expiring[key] = nil
    end
    listed[key] = now_text
    if kept ~= '0' then
      local past = prefix .. 'past:' .. group .. ':' .. key
      if before == '0' then
        redis.pcall('DEL', past) -- What is left of a state that was deleted by hand.
      end
      if kept == '' then
        local listed_now = redis.pcall('XLEN', past)
        kept = type(listed_now) == 'number' and math.max(LISTED, listed_now) or LISTED
      end
      redis.pcall('XADD', past, 'MAXLEN', kept, '*', 'v', version, 'data', data, 's', schema, 'at', now_text, 'by', by,
        'node', node, 'n', stamp)
      if ttl ~= '' then
        redis.pcall('PEXPIRE', past, ttl)
      elseif ttl_before then
        redis.pcall('PERSIST', past)
      end
    elseif has_past then
      redis.pcall('DEL', prefix .. 'past:' .. group .. ':' .. key)
      redis.call('HDEL', state, 'h')
    end
    if ttl ~= '' then
      -- Last: what is written to a key that has expired meanwhile is a new one, without a ttl.
      if ttl ~= ttl_before then
        redis.call('HSET', state, 't', ttl)
      end
      redis.call('PEXPIRE', state, ttl)
      expiring[key] = whole(now + ttl + 1) -- A key is there for the whole of its last millisecond.
    end
  end
end
