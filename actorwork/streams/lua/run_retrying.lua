-- How a run is tried again: what has failed in it is put back. (A part: scripts begin with the parts they need.)
--
-- Of a large run this takes several scripts. Meanwhile its status is RETRY: nothing is sent, and of what ends the dependents do not
-- know (`spread`), so that what steps lack can be counted anew. `putting` is how far that is: what is done, from which step on, and
-- for 'count' from which page of its dependents. The run does not depend on who has ordered it: `flows:due` has <run>/more.
--
--   back    the ends of the steps in `again`, or of all, are forgotten, and what all steps lack
--   clear   only the latter: steps were added to the run after `back`
--   count   for each step that has not ended, or whose dependents do not all know it, these lack one more
--   note    steps that lack nothing are ready
--
-- Each page is done by one script, wholly or not at all.
--
-- (All in one table, because a script may have no more than 200 local variables.)

local retrying = {}

do
  -- What changes when a step has ended without success, and for good. None of them succeeds later; so if this is the same, they are.
  function retrying.version_of(r)
    local unsuccessful = redis.call('HLEN', r.at .. ':ends') - listed.count(r, ':held')
    return (redis.call('HGET', r.at, 'retries') or '0') .. '.' .. unsuccessful
  end

  function retrying.may(r)
    return r.status == 'HELD' or r.status == 'FAILURE' and redis.call('HEXISTS', r.at, 'closing') == 0
  end

  local function chosen_of(r, steps, is_named)
    local ends = fetch(r.at .. ':ends', steps, {})
    local named = is_named and fetch(r.at .. ':again', steps, {})
    local chosen = {}
    for _, step in ipairs(steps) do
      if ends[step] and (not named or named[step]) then
        chosen[#chosen + 1] = step
      end
    end
    return chosen
  end

  local function forget_needs(r, steps)
    local names = {}
    for i, step in ipairs(steps) do
      names[i] = 'n' .. step
    end
    redis.call('HDEL', r.state, unpack(names))
    redis.call('ZREM', r.ready, unpack(steps))
  end

  -- Forgets how those of some steps have ended that run again.
  local function forget_ends(r, steps, is_named)
    local chosen = chosen_of(r, steps, is_named)
    if #chosen == 0 then
      return
    end
    local asked, forgotten, attempts, reopened = {}, {}, {}, 0
    for i, step in ipairs(chosen) do
      asked[2 * i - 1], asked[2 * i] = 's' .. step, 'a' .. step
      for _, name in ipairs({ 's', 'p', 'c', 'l' }) do
        forgotten[#forgotten + 1] = name .. step
      end
    end
    local known = redis.call('HMGET', r.state, unpack(asked))
    for i = 1, #chosen do
      attempts[2 * i - 1], attempts[2 * i] = asked[2 * i], (tonumber(known[2 * i] or '0') + 1)
      reopened = reopened + (known[2 * i - 1] == '2' and 1 or 0)
    end
    redis.call('HINCRBY', r.at, 'open', reopened)
    listed.drop(r, ':fails', unpack(chosen))
    listed.drop(r, ':held', unpack(chosen))
    redis.call('ZREM', r.at .. ':spread', unpack(chosen))
    redis.call('HDEL', r.at .. ':ends', unpack(chosen))
    for first = 1, #forgotten, CHUNK do
      redis.call('HDEL', r.state, unpack(forgotten, first, math.min(first + CHUNK - 1, #forgotten)))
    end
    redis.call('HSET', r.state, unpack(attempts))
  end

  -- Counts, from a step and a page of its dependents on, who lacks what has not ended. Returns from where on that is to go on, and how
  -- many were looked at.
  local function count_needs(r, step, page, most)
    local is_spreading = redis.call('EXISTS', r.at .. ':spread') == 1
    local needs, looked = {}, 0
    local function count(number, at, dependents)
      for _, waits in ipairs(dependents) do
        needs[waits[1]] = (needs[waits[1]] or 0) + 1
      end
      looked = looked + 1 + #dependents
      if #dependents >= NEXT.at_once then
        step, page = number, at + 1
      else
        step, page = number + 1, 0
      end
    end
    while step < r.total and looked < most do
      if page > 0 then
        count(step, page, decoded_of(redis.call('HGET', r.at .. ':next', next_of(step, page))))
      else
        local steps, names = {}, {}
        for number = step, math.min(step + most - looked, r.total) - 1 do
          steps[#steps + 1], names[#names + 1] = number, 's' .. number
        end
        local states, texts = redis.call('HMGET', r.state, unpack(names)), redis.call('HMGET', r.at .. ':next', unpack(steps))
        for i, number in ipairs(steps) do
          if looked >= most or page > 0 then
            break
          end
          local is_unknown = states[i] ~= '2'
          if not is_unknown and is_spreading and redis.call('ZSCORE', r.at .. ':spread', number) then
            is_unknown = true
            redis.call('ZADD', r.at .. ':spread', number * NEXT.most_pages, number) -- All of them, though some may know.
          end
          count(number, 0, is_unknown and decoded_of(texts[i]) or NONE)
        end
      end
    end
    local names, counts = {}, {}
    for number, times in pairs(needs) do
      names[#names + 1], counts[#counts + 1] = 'n' .. whole(number), times
    end
    for first = 1, #names, CHUNK / 2 do
      local last, left = math.min(first + CHUNK / 2 - 1, #names), {}
      for i, known in ipairs(redis.call('HMGET', r.state, unpack(names, first, last))) do
        left[2 * i - 1], left[2 * i] = names[first + i - 1], (counts[first + i - 1] + (tonumber(known or '0')))
      end
      redis.call('HSET', r.state, unpack(left))
    end
    return step, page, looked
  end

  local function note_which_lack_nothing(r, steps)
    local asked, ready = {}, {}
    for i, step in ipairs(steps) do
      asked[2 * i - 1], asked[2 * i] = 's' .. step, 'n' .. step
    end
    local known = redis.call('HMGET', r.state, unpack(asked))
    for i, step in ipairs(steps) do
      if not known[2 * i - 1] and not known[2 * i] then
        ready[#ready + 1] = step
      end
    end
    note_ready(r, ready)
  end

  local AFTER = { back = 'count', clear = 'count', count = 'note', note = 'done' }

  -- Goes on with what `begin` has begun.
  function retrying.more(r)
    local what, step, page, named = string.match(redis.call('HGET', r.at, 'putting') or '', '^(%a+) (%d+) (%d+) (%d)$')
    step, page = tonumber(step), tonumber(page)
    local left = SENT_AT_ONCE
    local function next_page()
      local steps = {}
      for number = step, math.min(step + math.min(left, SENT_AT_ONCE), r.total) - 1 do
        steps[#steps + 1] = number
      end
      step, left = step + #steps, left - #steps
      return steps
    end
    while what ~= 'done' and left > 0 do
      if what == 'count' then
        local looked
        step, page, looked = count_needs(r, step, page, math.min(left, SENT_AT_ONCE))
        left = left - looked
      else
        local steps = next_page()
        if #steps > 0 and what == 'note' then
          note_which_lack_nothing(r, steps)
        elseif #steps > 0 then
          forget_needs(r, steps)
          if what == 'back' then
            forget_ends(r, steps, named == '1')
          end
        end
      end
      if step >= r.total then
        what, step, page = AFTER[what], 0, 0
      end
    end
    if what ~= 'done' then
      redis.call('HSET', r.at, 'putting', what .. ' ' .. whole(step) .. ' ' .. whole(page) .. ' ' .. named)
      wake(r, 'more', now_ms())
      return
    end
    budget.sends = math.max(0, budget.sends - (SENT_AT_ONCE - left)) -- A small run is put back and sent by one script.
    redis.call('HDEL', r.at, 'putting')
    redis.call('DEL', r.at .. ':again')
    set_status(r, 'STARTED')
    continue(r) -- Of several held steps some may be left.
    if redis.call('EXISTS', r.at .. ':spread') == 1 then
      wake(r, 'more', now_ms())
    end
    r.open = tonumber(redis.call('HGET', r.at, 'open'))
    if r.open <= 0 then
      go_on(r, {})
    else
      send_ready(r)
    end
  end

  -- Counts anew, as steps were added.
  function retrying.count_again(r)
    redis.call('HDEL', r.state, 'n' .. RESULT)
    if not string.find(redis.call('HGET', r.at, 'putting') or '', '^back') then
      redis.call('HSET', r.at, 'putting', 'clear 0 0 0')
    end
  end

  -- Puts back what has not succeeded in a run that is held or has failed; if `is_named`, those steps in `again`.
  function retrying.begin(r, is_named)
    redis.call('HDEL', r.at, 'finished', 'result', 'told')
    redis.call('DEL', r.at .. ':told')
    redis.call('HINCRBY', r.at, 'retries', 1)
    redis.call('HSET', r.at, 'putting', 'back 0 0 ' .. (is_named and '1' or '0'))
    redis.call('HDEL', r.state, 'n' .. RESULT)
    if #chosen_of(r, { RESULT }, is_named) > 0 then
      redis.call('HDEL', r.at .. ':ends', RESULT)
      redis.call('HDEL', r.state, 's' .. RESULT)
      listed.drop(r, ':fails', RESULT)
    end
    redis.call('PERSIST', r.at)
    if KEYS.tag then
      away.act('actorwork:flow:' .. r.run, 'index', 'set', r.home)
    else
      redis.call('PERSIST', 'actorwork:flow:' .. r.run)
    end
    for _, suffix in ipairs(SUFFIXES) do
      redis.call('PERSIST', r.at .. suffix)
    end
    set_status(r, 'RETRY', 'what has failed is put back')
    retrying.more(r)
  end
end
